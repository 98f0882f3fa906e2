"""Memory dumps of LiME, the Linux Memory Extractor, and of AVML without compression.

Each range of physical memory has a header of 32 bytes before it: magic, version 1 (u32 each), first
and last address (u64 each, the last is included), 8 reserved bytes; little endian on all machines
in use. Source: src/lime.h and ``write_lime_header`` in src/main.c of LiME.
"""

from __future__ import annotations

import struct
from array import array

import numpy as np

from pagemerge.find.images.file import ImageFile
from pagemerge.find.images.layout import cut_to_pages, segments
from pagemerge.find.images.source import Contents

MAGIC = struct.pack("<I", 0x4C694D45)
HEADER = struct.Struct("<4sIQQ8x")
MOST = 1 << 62
"""Addresses beyond this are not physical memory of any machine."""


def parse(file: ImageFile) -> Contents:
    """Find the ranges of a LiME file. Raises ``UsageError`` if a header is damaged."""
    columns = array("q")
    offset, notes = 0, []
    while offset < file.size:
        header = file.read(offset, HEADER.size)
        if len(header) < HEADER.size:
            notes.append(_cut(offset + HEADER.size - file.size))
            break
        magic, version, first, last = HEADER.unpack(header)
        if magic != MAGIC:
            raise file.malformed("there is no header of LiME for the next range", offset)
        if version != 1:
            raise file.usage(f"is LiME version {version}, not 1: dump it with format=lime")
        if not first <= last < MOST:
            raise file.malformed(f"LiME range {first:#x} to {last:#x} is impossible", offset)
        offset += HEADER.size
        size = last - first + 1
        stored = min(size, file.size - offset)
        if stored < size:
            notes.append(_cut(size - stored))
            stored = int(cut_to_pages(np.array(first), np.array(stored)))
        columns.extend((first, offset, stored))
        offset += size
    address, offsets, sizes = np.array(columns, np.int64).reshape(-1, 3).T
    return Contents("LiME dump", segments(address, offsets, sizes), tuple(notes))


def _cut(missing: int) -> str:
    return f"the file is cut short: at least {missing} bytes of memory are missing"
