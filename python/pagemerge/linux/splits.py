"""Does this kernel free zero pages when it splits a huge page? Asked of the kernel itself.

Since 6.12, Linux maps every zero page of an anonymous huge page to its one page of zeros when it
splits the huge page, for whatever reason (``try_to_map_unused_to_zeropage`` in mm/migrate.c). So
ksmd frees zero pages that it has not merged, when it merges another page of the huge page. That is
a side effect which may go away, so this module does not compare versions. It has the kernel split a
huge page of this process, and looks at the page table.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np

from pagemerge import _core
from pagemerge.errors import PagemergeError
from pagemerge.model import PAGE_SIZE

HUGE = 2 << 20
"""Bytes of the largest huge page that is asked for."""

_EXCLUSIVE, _PRESENT = np.uint64(1 << 56), np.uint64(1 << 63)


def frees_zeros() -> bool | None:
    """Find out whether splitting a huge page frees its zero pages; None if that cannot be seen.

    It cannot be seen if this process gets no huge page: they are off
    (/sys/kernel/mm/transparent_hugepage/enabled), or no memory is free in one piece. The call
    takes at most 4 MiB for a moment, and changes nothing outside this process.
    """
    try:
        memory = mmap.mmap(-1, 2 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return None
    handle = ctypes.c_char.from_buffer(memory)
    base = ctypes.addressof(handle)
    del handle  # or the mapping could not be closed
    try:
        return _split(memory, base, -base % HUGE)
    except (OSError, PagemergeError):
        return None
    finally:
        memory.close()


def _split(memory: mmap.mmap, base: int, first: int) -> bool | None:
    """Split the huge page at offset ``first`` of ``memory``, which lies at the address ``base``."""
    memory.madvise(mmap.MADV_HUGEPAGE)
    memory[first] = 1
    before = _entries(base + first)
    pages = int(np.count_nonzero(before & _PRESENT))
    if pages < 4:
        return None
    # Linux splits the huge page, because it cannot free only a part of it (mm/madvise.c).
    last = first + (pages - 1) * PAGE_SIZE
    memory.madvise(mmap.MADV_FREE, last, PAGE_SIZE)
    after = _entries(base + first)[1 : pages - 1]
    # The page of zeros belongs to no process, so it is never mapped exclusively.
    freed = (after & _PRESENT != 0) & (after & _EXCLUSIVE == 0)
    return bool(freed.all()) if freed.all() or not freed.any() else None


def _entries(address: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Read the pagemap entries of this process from ``address`` on: u64[512]."""
    out = np.zeros(HUGE // PAGE_SIZE, np.uint64)
    run = np.array([address], np.uint64), np.array([len(out)], np.uint64)
    _core.pagemap(os.getpid(), *run, out)
    return out
