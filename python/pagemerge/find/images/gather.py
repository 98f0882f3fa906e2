"""Brings pages that lie anywhere in a file into one buffer, with few reads.

Pages of a dump may lie at any byte: after a header of 8 bytes each in a stream of QEMU, at an odd
offset in a core. Pages that follow each other closely are read at once.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pagemerge.find.images.file import ImageFile
from pagemerge.model import PAGE_SIZE

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

GAP = PAGE_SIZE
"""Bytes between two pages that are rather read in vain than skipped with one more system call."""
APART = 1 << 20
"""Bytes between two pages from which on holes between them are not looked at."""


def gather(file: ImageFile, offsets: Int64s, data: Bytes) -> tuple[Bools, int, str]:
    """Read the pages at ``offsets`` (int64[n], ascending) into ``data`` (u8[n, 4096]).

    Returns which of them could not be read (bool[n]; their rows hold anything), the bytes read,
    and the kernel's reason if it gave one.
    """
    missing = np.zeros(len(offsets), np.bool_)
    total, trouble = 0, ""
    cuts = np.flatnonzero(np.diff(offsets) > PAGE_SIZE + GAP) + 1
    for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(offsets)], strict=True):
        start = int(offsets[first])
        length = int(offsets[end - 1]) + PAGE_SIZE - start
        rows = data[first:end]
        if length == rows.size:  # the pages follow each other without a gap
            got, why = file.read_into(rows.reshape(-1), start)
        else:
            span = np.empty(length, np.uint8)
            got, why = file.read_into(span, start)
            rows[:] = sliding_window_view(span, PAGE_SIZE)[offsets[first:end] - start]
        if got < length:
            missing[first:end] = offsets[first:end] + PAGE_SIZE > start + got
        total, trouble = total + got, trouble or why
    return missing, total, trouble


def gather_parts(
    file: ImageFile, offsets: Int64s, lead: Int64s, length: Int64s, data: Bytes
) -> tuple[Bools, int, str]:
    """Read pages that are stored in part (see ``Layout.parts``) into ``data`` (u8[n, 4096]).

    There are at most two in a segment. Returns as ``gather``.
    """
    data[:] = 0
    missing = np.zeros(len(offsets), np.bool_)
    total, trouble = 0, ""
    where = zip(offsets.tolist(), lead.tolist(), length.tolist(), strict=True)
    for row, (offset, before, size) in enumerate(where):
        got, why = file.read_into(data[row, before : before + size], offset)
        missing[row] = got < size
        total, trouble = total + got, trouble or why
    return missing, total, trouble


def in_holes(file: ImageFile, offsets: Int64s, size: int) -> Bools:
    """Find the pages at ``offsets`` (int64[n], ascending) that lie in holes of the file: bool[n].

    They are zeros, and need not be read. ``size``: bytes of the file now; beyond it are no holes.
    """
    found = np.zeros(len(offsets), np.bool_)
    cuts = np.flatnonzero(np.diff(offsets) > APART) + 1
    for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(offsets)], strict=True):
        here = offsets[first:end]
        starts, ends = file.stretches(int(here[0]), int(here[-1]) + PAGE_SIZE)
        after = np.searchsorted(ends, here, side="right")  # the first stretch that ends later
        starts = np.append(starts, np.iinfo(np.int64).max)
        found[first:end] = (starts[after] >= here + PAGE_SIZE) & (here + PAGE_SIZE <= size)
    return found
