"""Finds pages that are nearly equal to another: 12 of their 16 blocks of 256 bytes are the same.

The blocks must lie at the same place in both. Some hypervisors store such a page as a difference
to the other one (Gupta et al., "Difference Engine", OSDI 2008). pagemerge cannot do that; the count
tells what merging leaves.

A sample is compared with every page that merging keeps. That reads these pages once more, because
16 digests of each would take 128 bytes a page. The state here is 5 kB for each sampled page, and
20 MB of work space. So there is a limit: of more than ``MOST_PAGES`` pages, it compares with a
sample of so many, and finds fewer than there are.

Two pages that share 12 of 16 blocks differ in 4 at most. So of any 5 blocks of one page, at least
one is equal in the other. Only the 5 rarest blocks of each sampled page are looked up. Blocks are
looked up by a weighted sum of their words, whose weights are drawn at random; what is found is
compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pagemerge.find.look import Look
from pagemerge.model import PAGE_SIZE

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

BLOCKS = 16
"""Blocks of a page."""

NEAR = 12
"""Equal blocks of two pages that make them nearly equal."""

MOST_PAGES = 1 << 19
"""Pages with which a sample is compared: 2.1 GB, 5 to 10 s."""

_RARE = BLOCKS - NEAR + 1
_CHUNK = 2048
"""Pages that are read at a time: 8 MiB stay in the cache."""
_PAIRS = 1 << 15
"""Pairs of pages whose digests are compared at a time."""
_WHOLE = 1 << 9
"""Pairs of pages that are compared byte by byte at a time."""
_WORDS = PAGE_SIZE // BLOCKS // 8


def contents(found: Look, indices: Int64s) -> Bytes:
    """Read pages of a look by their index (int64[n], ascending): u8[n, 4096]; zeros if they are
    gone."""
    data = np.zeros((len(indices), PAGE_SIZE), np.uint8)
    cuts = np.searchsorted(indices, found.offsets)
    firsts, parts = found.offsets[:-1].tolist(), pairwise(cuts.tolist())
    for source, first, (at, end) in zip(found.sources, firsts, parts, strict=True):
        if at < end:
            data[at:end] = source.contents(indices[at:end] - first)
    return data


def zero_blocks(pages: Bytes) -> Int64s:
    """Count the blocks of zeros of each page (u8[n, 4096]): int64[n]."""
    counted: Int64s = (~_blocks(pages).any(axis=2)).sum(axis=1)
    return counted


def near(
    found: Look,
    kept: Int64s,
    pages: Bytes,
    rng: np.random.Generator,
    most: int = MOST_PAGES,
) -> tuple[Bools, bool]:
    """Find which of the sampled ``pages`` (u8[m, 4096]) are nearly equal to another page.

    ``found`` has the pages of one domain, and ``kept`` (int64[k], ascending) those to compare with,
    no two of the same content. They may contain the sampled pages themselves. At most ``most`` of
    them are compared, drawn at random. Returns bool[m], and whether all were compared.
    """
    chosen = kept
    if len(kept) > most:
        chosen = np.sort(rng.choice(kept, most, replace=False))
    index = _Index(pages, rng)
    for at in range(0, len(chosen), _CHUNK):
        if index.found.all():
            break
        index.compare(contents(found, chosen[at : at + _CHUNK]))
    return index.found, len(chosen) == len(kept)


class _Index:
    """The rarest blocks of the sampled pages, and which of these pages are nearly equal to
    another."""

    def __init__(self, pages: Bytes, rng: np.random.Generator) -> None:
        self.found = np.zeros(len(pages), np.bool_)
        self._pages = pages
        # Odd, so that no change of one word keeps the sum.
        self._weights = rng.integers(0, 1 << 63, _WORDS, np.uint64) * np.uint64(2) + np.uint64(1)
        self._sums = self._sum(pages)
        self._rare = np.argsort(self._commonness(), axis=1, kind="stable")[:, :_RARE]
        self._index()

    def compare(self, others: Bytes) -> None:
        """Compare with ``others`` (u8[n, 4096])."""
        sums = self._sum(others)
        for sampled, other in self._candidates(sums):
            likely = (self._sums[sampled] == sums[other]).sum(axis=1) >= NEAR
            sampled, other = sampled[likely], other[likely]
            for at in range(0, len(sampled), _WHOLE):
                self._compare_bytes(sampled[at : at + _WHOLE], others, other[at : at + _WHOLE])
        if np.count_nonzero(self.found) > self._indexed_found * 1.1:
            self._index()

    def _compare_bytes(self, sampled: Int64s, others: Bytes, other: Int64s) -> None:
        """Compare pairs (int64[n] each) of a sampled page and one of ``others`` byte by byte."""
        new = ~self.found[sampled]
        ours, theirs = self._pages[sampled[new]], others[other[new]]
        equal = (_blocks(ours) == _blocks(theirs)).all(axis=2).sum(axis=1)
        # Equal in all blocks: the page itself.
        self.found[sampled[new][(equal >= NEAR) & (equal < BLOCKS)]] = True

    def _candidates(self, sums: UInt64s) -> Iterator[tuple[Int64s, Int64s]]:
        """Yield pairs of a sampled page and another that have one of the rare blocks in common."""
        for place, (keys, starts, members) in enumerate(self._places):
            if not len(keys):
                continue
            slot = np.minimum(np.searchsorted(keys, sums[:, place]), len(keys) - 1)
            hits = np.flatnonzero(keys[slot] == sums[:, place])
            width = (starts[1:] - starts[:-1])[slot[hits]]
            ends = np.cumsum(width)
            for at in range(0, int(ends[-1]) if len(ends) else 0, _PAIRS):
                pair = np.arange(at, min(at + _PAIRS, int(ends[-1])))
                hit = np.searchsorted(ends, pair, side="right")
                within = pair - (ends[hit] - width[hit])
                yield members[starts[slot[hits[hit]]] + within], hits[hit]

    def _index(self) -> None:
        """List for each place the rare blocks there, and the sampled pages that have them."""
        self._indexed_found = np.count_nonzero(self.found)
        self._places = []
        for place in range(BLOCKS):
            members = np.flatnonzero((self._rare == place).any(axis=1) & ~self.found)
            members = members[np.argsort(self._sums[members, place], kind="stable")]
            keys, starts = np.unique(self._sums[members, place], return_index=True)
            self._places.append((keys, np.append(starts, len(members)), members))

    def _commonness(self) -> Int64s:
        """Count the sampled pages that have the same block in the same place: int64[m, 16]."""
        common = np.empty(self._sums.shape, np.int64)
        for place in range(BLOCKS):
            _, group, count = np.unique(
                self._sums[:, place], return_inverse=True, return_counts=True
            )
            common[:, place] = count[group]
        return common

    def _sum(self, pages: Bytes) -> UInt64s:
        """Add up the weighted words of each block, modulo 2**64: u64[n, 16]."""
        return _blocks(pages) @ self._weights


def _blocks(pages: Bytes) -> UInt64s:
    """View pages (u8[n, 4096]) as words: u64[n, 16, 32]."""
    return pages.view(np.uint64).reshape(len(pages), BLOCKS, _WORDS)
