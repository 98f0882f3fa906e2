"""ELF cores: of a process (kernel, gcore), of a guest (dump-guest-memory), of a host (vmcore).

A core has a table of program headers; each of type PT_LOAD is a stretch of memory, of which the
first ``p_filesz`` bytes are in the file. Source: elf(5), core(5), Linux fs/binfmt_elf.c, QEMU
dump/dump.c.

What follows up to ``p_memsz`` differs. In a dump of physical memory it is zero. In the core of a
process it is what coredump_filter left out, mostly unchanged pages of files: it is not zero, so it
does not count at all. The core of a process has no physical addresses.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from pagemerge.find.images.file import ImageFile
from pagemerge.find.images.layout import cut_to_pages, segments
from pagemerge.find.images.source import Contents
from pagemerge.model import PAGE_SIZE

Int64s = NDArray[np.int64]
Headers = NDArray[np.void]

MAGIC = b"\x7fELF"
HEADER_BYTES = 64
ET_CORE, PT_LOAD = 4, 1
PN_XNUM = 0xFFFF
"""There are so many headers that section header 0 tells their number (elf(5))."""
FIELDS = ["type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align"]
STEP = 1 << 14
"""Program headers that are read at a time."""
MOST = np.uint64(1 << 62)
"""Bytes that a segment has at the most; beyond are no addresses."""
MOST_HEADERS = 1 << 24
"""A sparse file could hold 2^32 empty ones, which take minutes to read."""


def parse(file: ImageFile) -> Contents:
    """Find the memory in an ELF core of 64 bits, of either byte order.

    Raises ``UsageError`` for other ELF files, and if the headers are damaged.
    """
    loads = _loads(file, _order(file))
    if not len(loads):
        raise file.usage(
            "is an ELF core without memory (no PT_LOAD): dump it with its memory "
            "(Xen: `xl dump-core` has another format)"
        )
    process = not loads["paddr"].any() and bool(loads["vaddr"].any())
    size = loads["memsz"]
    if (size > MOST).any():
        raise file.malformed(f"a segment of {size.max()} bytes is impossible", HEADER_BYTES)
    filled = np.minimum(loads["filesz"], size)
    address = (loads["vaddr" if process else "paddr"] % PAGE_SIZE).astype(np.int64)
    notes = []
    beyond = float((size - filled).astype(np.float64).sum())
    zero_pages = 0
    if process:
        if beyond:
            notes.append(
                f"{beyond:.0f} bytes of the process are not in the core (coredump_filter) and do "
                "not count"
            )
    else:
        file.check_claim(beyond / PAGE_SIZE)
        zero_pages = _pages(address, size) - _pages(address, filled)
    offset, address, stored, more = _stored(file, loads["offset"], address, filled)
    kind = "core of a process" if process else "ELF dump of physical memory"
    return Contents(kind, segments(address, offset, stored, zero_pages), (*notes, *more))


def _order(file: ImageFile) -> str:
    """Return the byte order of a core of 64 bits, for struct; refuse everything else."""
    head = file.read(0, HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise file.usage("is cut short: it ends inside the ELF header: make the dump anew")
    if head[4] != 2:
        raise file.usage("is a 32-bit ELF file: pagemerge reads cores of 64-bit programs only")
    if head[5] not in (1, 2):
        raise file.malformed(f"byte order {head[5]} is not known", 5)
    order = "<" if head[5] == 1 else ">"
    (kind,) = struct.unpack_from(order + "H", head, 16)
    if kind != ET_CORE:
        raise file.usage(f"is an ELF file of type {kind}, not a core (4): give a core dump")
    return order


def _loads(file: ImageFile, order: str) -> Headers:
    """Read the program headers of type PT_LOAD."""
    head = file.read(0, HEADER_BYTES)
    table, sections = struct.unpack_from(order + "QQ", head, 32)
    entry, count = struct.unpack_from(order + "HH", head, 54)
    if count == PN_XNUM:
        section = file.read(sections, HEADER_BYTES)
        if len(section) < HEADER_BYTES:
            raise file.malformed("the number of program headers (PN_XNUM) is beyond the end", 40)
        (count,) = struct.unpack_from(order + "I", section, 44)
    kind = np.dtype({"names": FIELDS, "formats": [order + "u4"] * 2 + [order + "u8"] * 6})
    if count and entry != kind.itemsize:
        raise file.malformed(f"program headers of {entry} bytes; 64-bit ELF has 56", 54)
    if count > MOST_HEADERS:
        raise file.malformed(f"{count} program headers are more than any program has mappings", 40)
    if table + count * kind.itemsize > file.size:
        raise file.malformed(
            f"{count} program headers from byte {table} on do not fit into {file.size} bytes", 32
        )
    parts = []
    for first in range(0, count, STEP):
        number = min(STEP, count - first)
        data = file.read(table + first * kind.itemsize, number * kind.itemsize)
        part = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind)
        parts.append(part[(part["type"] == PT_LOAD) & (part["memsz"] > 0)].astype(_NATIVE))
    return np.concatenate(parts or [np.empty(0, _NATIVE)])


_NATIVE = np.dtype({"names": FIELDS, "formats": ["u4"] * 2 + ["u8"] * 6})


def _pages(address: Int64s, size: NDArray[np.uint64]) -> int:
    """Count the pages that stretches touch; those of length 0 touch none."""
    there = size > 0
    ends = address[there].astype(np.uint64) + size[there]
    return int((ends // PAGE_SIZE + (ends % PAGE_SIZE > 0)).sum())


def _stored(
    file: ImageFile, offset: NDArray[np.uint64], address: Int64s, filled: NDArray[np.uint64]
) -> tuple[Int64s, Int64s, Int64s, list[str]]:
    """Order what the file stores by offset, and leave out what it does not have, or has twice.

    A dump with virtual addresses (``dump-guest-memory -p``) maps one page several times.
    Returns offsets, addresses, bytes, int64[s] each, and notes.
    """
    notes = []
    size = np.uint64(file.size)
    there = np.where(offset < size, np.minimum(filled, size - np.minimum(offset, size)), 0)
    missing = float((filled - there).astype(np.float64).sum())
    kept = there > 0
    cut = (there < filled)[kept]
    offsets, addresses = offset[kept].astype(np.int64), address[kept]
    stored = there[kept].astype(np.int64)
    stored = np.where(cut, cut_to_pages(addresses, stored), stored)
    if missing:
        notes.append(f"the file is cut short: {missing:.0f} bytes of memory are missing")
    order = np.argsort(offsets, kind="stable")
    offsets, addresses, stored = offsets[order], addresses[order], stored[order]
    ends = np.maximum.accumulate(np.append(0, offsets + stored))[:-1]
    again = np.minimum(np.maximum(ends - offsets, 0), stored)
    if again.any():
        # The rest of a page that is there already would be a page of its own: leave it out.
        again = np.minimum(again + -(addresses + again) % PAGE_SIZE * (again > 0), stored)
        notes.append(f"{again.sum()} bytes are mapped more than once, and count once")
    return offsets + again, addresses + again, stored - again, notes
