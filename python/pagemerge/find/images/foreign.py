"""Files that hold memory in a form that is not read here: recognised, and refused with the cure.

As raw memory they would look like pages without duplicates, which is a wrong answer.
"""

from __future__ import annotations

from pagemerge.find.images.file import ImageFile

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
    (b"\x1f\x8b", "compressed with gzip", "unpack it with `gunzip`"),
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
