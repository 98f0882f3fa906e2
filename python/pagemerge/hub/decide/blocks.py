"""Decides which blocks of 2 MiB are huge pages and which are merged page by page: pure functions.

A huge page takes one entry of the processor's table of addresses (TLB) where small pages take 512.
Merging a page of a block makes it small for as long as the page is merged. So a block has a price:
the pages that must be worth merging. A block is 512 pages at an address that is a multiple of
2 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagemerge.hub.model import BLOCK, NO_SLOT, OWN_SLOT, Candidates
from pagemerge.hub.pages import Pages
from pagemerge.model import ABSENT, PAGE_SIZE

Bools = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]

BLOCK_SIZE = BLOCK * PAGE_SIZE
"""Bytes of a block."""

ROUNDS = 8
"""The most rounds of ``spared``: a block that is spared may leave pages elsewhere without an equal,
which spares other blocks. What is left after these rounds is merged at more than the price."""

SEEN = 3
"""Looks in a row without a yield after which the hub makes a block a huge page. Programs that hold
the same pages may have started one after the other."""

UNKNOWN, HUGE, REFUSED = 0, 1, 2
"""What the hub knows of a block: nothing, that it is a huge page, or that it could not be one."""


def extent(start: int, pages: int) -> tuple[int, int]:
    """Return the whole blocks in ``pages`` pages from the address ``start`` on: (index of the first
    page of the first block, number of blocks)."""
    first = -(start // PAGE_SIZE) % BLOCK
    return first, max(pages - first, 0) // BLOCK


def merged(slot: npt.NDArray[np.uint32]) -> I64:
    """Return how many pages of each block are merged: i64[blocks]. ``slot`` u32[pages]: what the
    pages of whole blocks map."""
    counts: I64 = np.count_nonzero(slot.reshape(-1, BLOCK) != NO_SLOT, axis=1)
    return counts


def spared(
    block: I64, group: I64, saves: Bools, dear: Bools, already: npt.NDArray[np.uint16], price: int
) -> Bools:
    """Return which candidates are left alone, because too little of their block is worth merging.

    All arrays have one element a candidate: ``block``, the number of its block, which ascends;
    ``group``, the number of its group of equal digests, or -1 if no other candidate has that;
    ``saves``: it saves a page whatever the others do (the store has its content, or it is zero);
    ``dear``: its block would be a huge page; ``already``: pages of its block that are merged.
    """
    spare = np.zeros(len(block), np.bool_)
    if price == 0 or not dear.any():
        return spare
    heads = np.flatnonzero(np.diff(block, prepend=block[:1] - 1) != 0)
    number = np.repeat(np.arange(len(heads)), np.diff(np.append(heads, len(block))))
    shared = np.flatnonzero(group >= 0)
    for _ in range(ROUNDS):
        rest = shared[~spare[shared]]
        sizes = np.bincount(group[rest]) if len(rest) else np.zeros(0, np.int64)
        worth = saves & ~spare
        worth[rest[sizes[group[rest]] > 1]] = True
        counts = np.add.reduceat(worth, heads, dtype=np.int64) + already[heads]
        poor = dear & worth & (counts < price)[number]
        if not poor.any():
            break
        spare |= poor
    return spare


def whole(found: Candidates, donors: I64, dear: Bools) -> Bools:
    """Return which of these donors make up whole blocks that would be huge pages: bool[donors].

    ``donors`` i64[n]: candidates, ascending, of which no two have the same bytes; ``dear``
    bool[candidates] as in ``spared``. If such a block lies in a slab page for page, the slab's
    block can be one huge page, and so can the blocks that map it.
    """
    address, client = found.address[donors], found.client[donors]
    chosen = np.zeros(len(donors), np.bool_)
    heads = np.flatnonzero(dear[donors] & (address % BLOCK_SIZE == 0))
    heads = heads[heads + BLOCK <= len(donors)]
    last = heads + BLOCK - 1
    joined = address[last] - address[heads] == BLOCK_SIZE - PAGE_SIZE
    heads = heads[joined & (client[last] == client[heads])]
    chosen[(heads[:, None] + np.arange(BLOCK)).ravel()] = True
    return chosen


def leading(address: npt.NDArray[np.uint64], whose: npt.NDArray[np.uint64], most: int) -> int:
    """Return how many blocks, at most ``most``, a slab begins with, if it is filled with the pages
    at these addresses, each of the process ``whose``."""
    blocks = 0
    while blocks < most and (blocks + 1) * BLOCK <= len(address):
        part = slice(blocks * BLOCK, (blocks + 1) * BLOCK)
        steps = np.diff(address[part])
        one = np.all(steps == PAGE_SIZE) and np.all(whose[part] == whose[part][0])
        if not one or address[part][0] % BLOCK_SIZE:
            break
        blocks += 1
    return blocks


@dataclass(frozen=True, slots=True, eq=False)
class Due:
    """Which blocks of a region can be huge pages."""

    anonymous: Bools
    """bool[blocks]: blocks of the process's own pages that can be huge pages."""
    mapping: Bools
    """bool[blocks]: blocks that map 512 consecutive slots."""


def due(pages: Pages, first: int, blocks: int, price: int) -> Due:
    """Return which blocks of a region can be huge pages; ``first`` and ``blocks`` as ``extent``
    tells.

    A block of which zero pages were given back becomes one, and they come back, if they are fewer
    than half the ``price``: otherwise a block at the limit would change again and again. Memory
    that was never touched stays so. A block of which a page stands on a slab stays small, though
    the page may have been written since: the kernel joins such a page's mapping with no other.
    """
    part = slice(first, first + blocks * BLOCK)
    slot, under = pages.slot[part].reshape(-1, BLOCK), pages.under[part].reshape(-1, BLOCK)
    present = pages.digest[part].reshape(-1, BLOCK) != ABSENT
    counts = merged(pages.slot[part])
    on_slabs = np.any(under != NO_SLOT, axis=1)
    complete = np.all(present | (slot != NO_SLOT), axis=1)
    # The hub's blocks begin at the start of the region: a block here lies in one of them or in two.
    quiet = pages.quiet[first // BLOCK : first // BLOCK + blocks]
    if first % BLOCK:
        quiet = np.minimum(quiet, pages.quiet[first // BLOCK + 1 :][:blocks])
    few = (2 * counts < price) & (quiet >= SEEN) & complete & ~on_slabs
    ascends = (slot[:, -1] - slot[:, 0] == BLOCK - 1) & np.all(np.diff(slot, axis=1) == 1, axis=1)
    return Due(
        anonymous=few,
        mapping=ascends & (slot[:, -1] < OWN_SLOT) & np.all(slot == under, axis=1),
    )
