"""Streams of QEMU: what ``migrate "exec:cat > FILE"`` and ``virsh save`` write.

A stream has a header, and then sections. Section "ram" comes in parts: a list of blocks, then all
pages, then those that the guest changed meanwhile, again and again; the last copy of a page counts.
Devices come after it, and nothing is read of them. Sources: QEMU migration/savevm.c and savevm.h,
scripts/analyze-migration.py; libvirt src/qemu/qemu_saveimage.h.
"""

from __future__ import annotations

import struct

from pagemerge.find.images import ram
from pagemerge.find.images.file import ImageFile
from pagemerge.find.images.layout import NO_PAGE, ZERO_PAGE
from pagemerge.find.images.source import Contents
from pagemerge.find.images.stream import CutError, Stream
from pagemerge.linux.text import plain
from pagemerge.model import PAGE_SIZE

MAGIC = b"QEVM"
VERSION = 3
LIBVIRT = b"LibvirtQemudSave"
SAVE_HEADER = struct.Struct("=16s19I")
COMPRESSIONS = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")
RAW, SPARSE = 0, 6

END, START, PART, LAST, FULL = range(5)
SUBSECTION, DESCRIPTION, CONFIGURATION, COMMAND = range(5, 9)
FOOTER = 0x7E
RAM_VERSION = 4
MOST_BITS = 21
"""Of a page: 2 MiB is more than any target of QEMU has."""
MOST_NAME, MOST_CAPABILITIES = 4096, 1024
"""Characters in the name of a machine; capabilities (QEMU 10 has 22)."""
KIND = "QEMU stream"


def parse(file: ImageFile, start: int = 0) -> Contents:
    """Find the pages in a stream that starts at byte ``start``.

    Raises ``UsageError`` for a damaged stream, and one that holds pages in a form that is not read
    (XBZRLE, compressed, multifd).
    """
    stream = Stream(file, start)
    found = ram.Ram(stream)
    try:
        if stream.take(len(MAGIC)) != MAGIC:
            raise file.malformed("there is no stream of QEMU", start)
        if (version := stream.number(4)) != VERSION:
            raise file.usage(
                f"is a QEMU stream of version {version}, not {VERSION}: save it with QEMU 1.0 or "
                "later"
            )
        trouble = _sections(stream, found)
    except CutError:
        trouble = "the file is cut short"
    return Contents(KIND, found.blocks, _notes(file, found, trouble))


def parse_save(file: ImageFile) -> Contents:
    """Find the pages in a file of ``virsh save``: a header, the domain's XML, a stream."""
    head = file.read(0, SAVE_HEADER.size)
    if len(head) < SAVE_HEADER.size:
        raise file.usage("is cut short: it ends inside the header of libvirt: save it anew")
    _, version, length, _, packed, *_ = SAVE_HEADER.unpack(head)
    if version >> 24:  # the other byte order
        swap = struct.Struct("<4I" if struct.pack("=H", 1) == b"\0\1" else ">4I")
        version, length, _, packed = swap.unpack_from(head, len(LIBVIRT))
    if packed not in (RAW, SPARSE):
        name = COMPRESSIONS[packed] if packed < len(COMPRESSIONS) else f"format {packed}"
        raise file.usage(
            f"is a save of libvirt with {name}: set save_image_format to raw in "
            "/etc/libvirt/qemu.conf, and save it anew"
        )
    return parse(file, SAVE_HEADER.size + length)


def _sections(stream: Stream, found: ram.Ram) -> str:
    """Read sections up to the end of section "ram"; return why that end was not reached."""
    ours = -1
    while True:
        at, kind = stream.at, stream.number(1)
        if kind in (START, FULL):
            section, name = stream.number(4), stream.text()
            _, version = stream.number(4), stream.number(4)
            if name != b"ram":
                return f"section {plain(name, 40)!r} cannot be skipped: save without that device"
            if version != RAM_VERSION:
                raise stream.file.malformed(f"section ram has version {version}, not 4", at)
            ours = section
            found.read()
        elif kind in (PART, LAST):
            if stream.number(4) != ours:
                return f"at byte {at} a section goes on that cannot be skipped"
            found.read()
        elif kind == FOOTER:
            stream.skip(4)
        elif kind == COMMAND:
            stream.skip(2)
            stream.skip(stream.number(2))
        elif kind == CONFIGURATION:
            _configuration(stream, found)
        elif kind == END:
            return "it ends before the last part of section ram"
        else:
            raise stream.file.malformed(f"a section of type {kind} is not known", at)
        if kind in (LAST, FULL):
            return ""


def _configuration(stream: Stream, found: ram.Ram) -> None:
    """Read the section that tells what the stream depends on."""
    stream.take(_few(stream, MOST_NAME))  # the name of the machine
    while stream.take(1)[0] == SUBSECTION:
        at, name = stream.at, stream.text()
        stream.skip(4)
        if name == b"configuration/target-page-bits":
            bits = stream.number(4)
            if not PAGE_SIZE.bit_length() - 1 <= bits <= MOST_BITS:
                raise stream.file.usage(
                    f"is of a guest with pages of 2^{bits} bytes; pagemerge needs whole pages of "
                    f"{PAGE_SIZE}: dump it with `dump-guest-memory`"
                )
            found.page_bytes = 1 << bits
        elif name == b"configuration/capabilities":
            names = {stream.text() for _ in range(_few(stream, MOST_CAPABILITIES))}
            found.ignore_shared = b"x-ignore-shared" in names
            found.mapped = b"mapped-ram" in names
        elif name == b"configuration/uuid":
            stream.skip(16)
        else:
            raise stream.file.malformed(f"{plain(name, 60)!r} is not known", at)
    stream.at -= 1


def _few(stream: Stream, most: int) -> int:
    """Return the next number, of 4 bytes. Raises ``UsageError`` if it is more than ``most``."""
    at, number = stream.at, stream.number(4)
    if number > most:
        raise stream.file.malformed(f"{number} is too many for a configuration", at)
    return number


def _notes(file: ImageFile, found: ram.Ram, trouble: str) -> tuple[str, ...]:
    """Decide what pages are that were not sent, and say so."""
    blocks = found.blocks
    if not len(blocks.sent):
        blocks.blocks.clear()
        blocks.total = 0
        return (f"{trouble or 'it has no section ram'}, before any page",)
    unsent = blocks.unsent_pages()
    if found.mapped:  # the bitmaps tell which pages are zero
        blocks.unsent_place = NO_PAGE if found.ignore_shared else ZERO_PAGE
        return (trouble,) if trouble else ()
    if unsent == blocks.total:
        why = trouble or "were they sent over other channels (multifd), or is its memory shared?"
        raise file.usage(f"holds no page of its {unsent} pages of memory: {why}")
    if trouble:
        blocks.unsent_place = NO_PAGE
        return (f"{trouble}: {unsent} of {blocks.total} pages are missing",)
    blocks.unsent_place = NO_PAGE if found.ignore_shared else ZERO_PAGE
    what = "shared memory that was left out" if found.ignore_shared else "counted as zero"
    return (f"{unsent} of {blocks.total} pages were not sent ({what})",) if unsent else ()
