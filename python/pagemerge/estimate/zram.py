"""What a page takes in zram: the compressors, and the allocator behind it.

Sources: drivers/block/zram/zram_drv.c (``zram_write_page``), mm/zsmalloc.c (``zs_create_pool``) and
Documentation/mm/zsmalloc.rst of Linux. A page whose words are all equal takes no memory. Any other
is compressed and put into the smallest size class in which it fits. A class holds its objects in
chains of up to 8 pages, so that little is wasted at their ends. From about 3.6 kB on a class would
hold one object in a page; zram then keeps the page as it is. All that is checked against a real
zram in ``tests/integration/test_compress.py``.

Not counted: 16 bytes of the device's table for each page, used or not, and 8 bytes of a handle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagemerge.errors import Unsupported
from pagemerge.model import PAGE_SIZE

Compress = Callable[[bytes], bytes]

EXTRA = "estimate"
"""The optional part of the package that has the compressors."""

ZSTD_LEVEL = 3
"""The kernel's default (include/linux/zstd.h, ``zstd_default_clevel``)."""

CHAIN = 8
"""Pages of the longest chain: CONFIG_ZSMALLOC_CHAIN_SIZE, whose default is 8. Before Linux 6.3 it
was 4 and could not be changed."""

_LEAST, _STEP, _HANDLE = 32, PAGE_SIZE >> 8, 8
"""Bytes: the smallest class, the distance between two classes, a handle before each object."""


def compressors() -> dict[str, Compress]:
    """Return the compressors of zram, by its names for them, as PyPI's libraries have them.

    Raises ``Unsupported`` if they are not installed.
    """
    try:
        import lz4.block
        import zstandard
    except ImportError as error:
        raise Unsupported(
            f'the compressor {error.name} is not installed: `pip install "pagemerge[{EXTRA}]"`'
        ) from None

    def lz4_fast(page: bytes) -> bytes:
        return bytes(lz4.block.compress(page, store_size=False))

    return {"lz4": lz4_fast, "zstd": zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress}


def compressed_bytes(pages: NDArray[np.uint8], compress: Compress) -> NDArray[np.int64]:
    """Compress each of ``pages`` (u8[n, 4096]): its size, in bytes, int64[n].

    0 for a page with all words equal, 4096 for one that zram keeps as it is.
    """
    sizes = np.zeros(len(pages), np.int64)
    for at in np.flatnonzero(~same_filled(pages)).tolist():
        sizes[at] = len(compress(pages[at].tobytes()))
    sizes[sizes >= _classes().whole] = PAGE_SIZE
    return sizes


def same_filled(pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find the pages (u8[n, 4096]) whose words of 8 bytes are all equal: bool[n]."""
    words = pages.view(np.uint64)
    same: NDArray[np.bool_] = (words == words[:, :1]).all(axis=1)
    return same


def held_bytes(sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Work out what the allocator takes for objects of ``sizes`` bytes (0 to 4096): f64[n].

    It is the object's part of a full chain.
    """
    return _classes().held[sizes]


def unfilled_bytes(sizes: NDArray[np.int64]) -> float:
    """Estimate what the last chains of all classes waste: half a chain for each class in use."""
    classes = _classes()
    several = sizes[(sizes > 0) & (sizes < classes.whole)]
    _, first = np.unique(classes.held[several], return_index=True)
    return float(classes.chain[several[first]].sum()) * PAGE_SIZE / 2


class _Classes(NamedTuple):
    """The size classes of zsmalloc, by the size of an object in bytes, from 0 to 4096."""

    held: NDArray[np.float64]
    """f64[4097]: bytes that an object takes."""
    chain: NDArray[np.int64]
    """int64[4097]: pages of a chain of its class."""
    whole: int
    """The size from which on zram keeps the page as it is."""


@cache
def _classes() -> _Classes:
    """Work out the size classes of zsmalloc, from the largest down."""
    held, chains = np.zeros(PAGE_SIZE + 1, np.float64), np.zeros(PAGE_SIZE + 1, np.int64)
    whole = PAGE_SIZE
    for size in range(PAGE_SIZE, _LEAST - 1, -_STEP):
        chain, objects = _chain(size)
        if objects > 1 and chain > 1 and whole == PAGE_SIZE:
            whole = size - (_HANDLE - 1)
        # Objects of this class and of no smaller one; each has a handle before it.
        first = 1 if size == _LEAST else size - _STEP + 1 - _HANDLE
        held[first : size - _HANDLE + 1] = chain * PAGE_SIZE / objects
        chains[first : size - _HANDLE + 1] = chain
    held[whole:], chains[whole:] = PAGE_SIZE, 1
    return _Classes(held, chains, whole)


def _chain(size: int) -> tuple[int, int]:
    """Choose the chain of a class: its pages, so that least is wasted, and its objects."""
    if size & (size - 1) == 0:
        return 1, PAGE_SIZE // size
    pages = min(range(1, CHAIN + 1), key=lambda count: count * PAGE_SIZE % size)
    return pages, pages * PAGE_SIZE // size
