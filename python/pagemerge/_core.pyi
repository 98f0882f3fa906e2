"""The typed contract with the Rust core.

Arrays are any contiguous objects with the buffer protocol; none may be written by another thread
while a call uses it. Every function releases the GIL. ``seed`` is 64 bits. Wrong shapes, dtypes
and ranges raise ``UsageError``; for another process ``NoSuchProcess`` and ``AccessDenied`` carry
its ``pid``.
"""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

# numpy's own stubs admit that arrays are buffers from Python 3.12 on only.
_Bytes = Buffer | NDArray[np.uint8]
_Words = Buffer | NDArray[np.uint64]

PAGE_SIZE: int

# find: crates/python/src/find.rs

ABSENT: int
"""Digest 0: the page was not looked at (hole, swapped, not anonymous, or gone meanwhile)."""
ZERO: int
"""Digest 1: every byte of the page is zero (compared, not hashed)."""
CHUNK: int
"""Bytes that one thread reads at a time."""

def digest(data: _Bytes, seed: int, out: _Words) -> None:
    """XXH3-64 of each page of ``data`` (u8[n * 4096]) into ``out`` (u64[n]); see ``ZERO``."""

def present_runs(
    pid: int, start: int, end: int, anonymous: bool = True
) -> tuple[bytes, bytes]:
    """Runs of present pages in [start, end): their addresses u64[r] and page counts u64[r].

    Anonymous pages only, or also those of files and shared memory; never the kernel's page of
    zeros, nor swapped pages. Both are native-endian, for ``np.frombuffer``. Touches no page.
    ``Unsupported`` for more than 1 TiB on kernels without PAGEMAP_SCAN (Linux 6.7).
    """

def pagemap(pid: int, starts: _Words, pages: _Words, out: _Words) -> None:
    """Raw pagemap entries of the pages of runs (u64[r], u64[r]) into ``out`` (u64[sum(pages)]).

    Bits: 0-54 page frame number (0 without CAP_SYS_ADMIN), 56 mapped only once, 61 file or
    shared, 62 swapped, 63 present. Source: Linux Documentation/admin-guide/mm/pagemap.rst.
    """

def read_digests(
    pid: int,
    starts: _Words,
    pages: _Words,
    entries: _Words,
    seed: int,
    out: _Words,
    threads: int = 1,
) -> tuple[int, int]:
    """Digests of the pages of runs into ``out`` (u64[sum(pages)]).

    ``entries`` (u64[sum(pages)]) is what ``pagemap`` just said of them: pages that the target
    shares with others are read without pinning, which would copy them; pages no longer present
    are not touched. Returns the bytes read and the pages that could not be, which are ``ABSENT``.
    """

def read_only(
    pid: int, starts: _Words, pages: _Words, out: _Words, threads: int = 1, chunk: int = ...
) -> tuple[int, int]:
    """process_vm_readv(2) of the same pages, ``chunk`` bytes at a time, into nowhere.

    For benchmarks: it copies what the target shares, see ``read_digests``.
    """

def read_pages(pid: int, starts: _Words, pages: _Words, out: _Bytes) -> tuple[int, int]:
    """Copy the pages of runs into ``out`` (u8[sum(pages) * 4096]).

    Returns the bytes read and the pages that could not be read, which are filled with zeros.
    """

def look(
    pid: int, start: int, pages: int, seed: int, out: _Words, threads: int = 1
) -> tuple[int, int]:
    """``present_runs`` and ``read_digests`` in one: digests of ``pages`` pages from ``start`` on.

    ``out`` is u64[pages]; pages that are not present and anonymous become ``ABSENT`` and are not
    touched. Returns the bytes read and the pages that vanished before they could be read.
    """

def sort(keys: _Words, threads: int = 1) -> None:
    """Sort ``keys`` (u64[n]) in place, ascending."""
