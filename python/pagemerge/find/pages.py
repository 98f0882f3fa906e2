"""Reads pages of processes: what a reader does that may be left behind (``linux.aside``)."""

from __future__ import annotations

import os
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge.errors import Unsupported, about_process
from pagemerge.find import tally
from pagemerge.find.groups import steps
from pagemerge.linux.aside import readers
from pagemerge.linux.process import PROC
from pagemerge.linux.reader import ROOM, room
from pagemerge.model import PAGE_SIZE

UInt64s = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

MOST = ROOM // 16
"""Pages that are digested at once."""

AT_ONCE = ROOM // PAGE_SIZE
"""Pages whose bytes are copied at once."""

HUGE_BYTES = 2 << 20
"""Bytes of a huge page."""

Runs = tuple[UInt64s, UInt64s]
"""Addresses and pages, u64[r] each."""


def present_runs(pid: int, start: int, end: int, *, anonymous: bool) -> Runs:
    """Find present pages; with ``anonymous``, only anonymous ones.

    To tell them apart, the kernel looks at each page's ``struct page``, which takes three times as
    long (``pagemap_page_category``, Linux fs/proc/task_mmu.c). So callers do not ask for that where
    a mapping has no file: all its pages are anonymous.
    """
    starts, pages = _core.present_runs(pid, start, end, anonymous)
    return np.frombuffer(starts, np.uint64), np.frombuffer(pages, np.uint64)


def huge_blocks(pid: int, ranges: list[tuple[int, int]]) -> UInt64s:
    """Find the huge pages of process ``pid``, which are of 2 MiB, in ranges of addresses (start,
    end): u64[n], the number of each, which is its address in blocks of 2 MiB. None are found before
    Linux 6.7. Raises ``PagemergeError`` if the process cannot be read, or keeps us waiting."""
    return np.array(readers.call(pid, _huge_blocks, pid, ranges), np.uint64)


def _huge_blocks(pid: int, ranges: list[tuple[int, int]]) -> list[int]:
    found: list[int] = []
    with suppress(Unsupported):
        for start, end in ranges:
            first, pages = _core.huge_runs(pid, start, end)
            runs = zip(
                np.frombuffer(first, np.uint64), np.frombuffer(pages, np.uint64), strict=True
            )
            for at, count in runs:
                block = int(at) // HUGE_BYTES
                found += range(block, block + int(count) * PAGE_SIZE // HUGE_BYTES)
    return found


def digests(
    pid: int, starts: UInt64s, pages: UInt64s, seed: int, threads: int
) -> tuple[UInt64s, UInt64s, int, int]:
    """Read at most ``MOST`` pages of process ``pid``, which lie in runs: u64[r] each.

    Returns their digests and the names of their frames (u64[k] each, valid until the next call),
    the bytes that were read, and the number of pages that could not be.
    Raises ``PagemergeError`` if the process cannot be read, or keeps us waiting.
    """
    count = int(pages.sum())
    read, unreadable = readers.call(pid, _digests, pid, starts, pages, seed, threads)
    return *_rows(readers.room, count), read, unreadable


def _digests(pid: int, starts: UInt64s, pages: UInt64s, seed: int, threads: int) -> tuple[int, int]:
    digests, frames = _rows(room(), int(pages.sum()))
    _core.pagemap(pid, starts, pages, frames)
    told = _core.read_digests(pid, starts, pages, frames, seed, digests, threads)
    for here in steps(len(frames)):
        frames[here] = tally.shared_frames(frames[here], digests[here])
    return told


def _rows(memory: memoryview | None, count: int) -> tuple[UInt64s, UInt64s]:
    """Return the two parts of the shared memory that hold ``count`` digests and frames."""
    assert memory is not None
    digests, frames = np.frombuffer(memory, np.uint64).reshape(2, -1)[:, :count]
    return digests, frames


def entries(pid: int, addresses: UInt64s) -> UInt64s:
    """Read the raw pagemap entries of pages of process ``pid``: u64[n]."""
    return readers.call(pid, _entries, pid, addresses)


def _entries(pid: int, addresses: UInt64s) -> UInt64s:
    found = np.zeros(len(addresses), np.uint64)
    _core.pagemap(pid, addresses, np.ones_like(addresses), found)
    return found


def copy(pid: int, addresses: UInt64s, data: Bytes, rows: NDArray[np.int64]) -> None:
    """Copy the pages at ``addresses`` of process ``pid`` into ``rows`` of ``data`` (u8[n, 4096]).

    A page that has gone becomes zeros. Raises ``PagemergeError`` if the process cannot be read, or
    keeps us waiting.
    """
    for at in range(0, len(addresses), AT_ONCE):
        some = addresses[at : at + AT_ONCE]
        readers.call(pid, _copy, pid, some.tolist())
        got = np.frombuffer(readers.room, np.uint8).reshape(-1, PAGE_SIZE)
        data[rows[at : at + AT_ONCE]] = got[: len(some)]


def _copy(pid: int, addresses: list[int]) -> None:
    """Copy pages into the shared memory.

    Through /proc/PID/mem, because process_vm_readv(2) would make the process copy pages that it
    shares since a fork (Linux mm/gup.c, FAULT_FLAG_UNSHARE).
    """
    shared, path = room(), PROC / str(pid) / "mem"
    assert shared is not None
    with about_process(pid, path), path.open("rb", buffering=0) as memory:
        for at, address in enumerate(addresses):
            place = shared[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]
            place[:] = bytes(PAGE_SIZE)
            with suppress(OSError):  # EIO: unmapped since
                os.preadv(memory.fileno(), [place], address)
