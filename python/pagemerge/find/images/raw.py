"""Raw memory: byte n of the file is byte n of the memory. And what only looks like it.

Firecracker and Cloud Hypervisor write their snapshots like this, QEMU the file of a
memory-backend-file and ``pmemsave``, VMware a .vmem file. Raw memory has no header, so every file
could be raw memory. Files that hold memory in a form that is not read here are recognised, and
refused with the cure: as raw memory they would look like pages without duplicates, which is a wrong
answer.
"""

from __future__ import annotations

import numpy as np

from pagemerge.find.images.file import ImageFile
from pagemerge.find.images.layout import segments
from pagemerge.find.images.source import Contents
from pagemerge.model import PAGE_SIZE

ELF_CURE = (
    "dump it as ELF (QEMU: `dump-guest-memory FILE` without -z, -l and -s; virsh: `dump "
    "--memory-only --format elf`; kdump: `makedumpfile -E -d 0`)"
)
FORMATS: tuple[tuple[bytes, str, str], ...] = (
    (b"KDUMP   ", "a kdump-compressed dump", ELF_CURE),
    (b"DISKDUMP", "a dump of diskdump", ELF_CURE),
    (
        b"makedumpfile\0",
        "a dump of makedumpfile in its flattened format",
        ELF_CURE,
    ),
    (b"\x1f\x8b\x08", "compressed with gzip", "unpack it with `gunzip`"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it with `unxz`"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with `unzstd`"),
    (b"BZh", "compressed with bzip2", "unpack it with `bunzip2`"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it with `unlz4`"),
    (b"\x89LZO\0\r\n\x1a\n", "compressed with lzop", "unpack it with `lzop -d`"),
    (b"AVML", "a compressed dump of AVML", "convert it with `avml-convert`"),
    (
        b"QFI\xfb",
        "a qcow2 disk, which may hold snapshots of savevm",
        'load the snapshot, and save its memory with `migrate "exec:cat > FILE"`',
    ),
    (
        b"LibvirtQemudPart",
        "a save of libvirt that was not finished",
        "run `virsh save` again",
    ),
    (b"PAGEDU64", "a crash dump of Windows", "save raw memory (VMware: .vmem)"),
    (b"PAGEDUMP", "a crash dump of Windows", "save raw memory (VMware: .vmem)"),
)
"""First bytes of a file, what it is, and the cure."""


def refuse(file: ImageFile, head: bytes) -> None:
    """Raise ``UsageError`` if ``head``, the first bytes of ``file``, is of such a format."""
    for magic, what, cure in FORMATS:
        if head.startswith(magic):
            raise file.usage(f"is {what}, which pagemerge does not read: {cure}")


def parse(file: ImageFile) -> Contents:
    """Lay out a file as raw memory: every file can be."""
    zero = np.zeros(1, np.int64)
    beyond = file.size % PAGE_SIZE
    notes: tuple[str, ...] = ()
    if beyond:
        notes = (
            f"its size is no multiple of {PAGE_SIZE} bytes: the last page has only {beyond} bytes, "
            "and counts as if zeros followed; is it raw memory?",
        )
    return Contents("raw memory", segments(zero, zero, zero + file.size), notes)
