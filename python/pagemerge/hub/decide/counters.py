"""Works out KSM's counters from the arrays of a domain; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from pagemerge._core import count
from pagemerge.hub.model import LOOKS, NO_SLOT, OWN_SLOT, ZERO_SLOT
from pagemerge.hub.pages import Pages
from pagemerge.model import ABSENT

VMA_BYTES = 287
"""Bytes that a mapping costs the kernel, measured with 60,000 single-page mappings of one slab."""

MOST_PAGES = 1 << 16
"""The most pages of a lot: about a millisecond of work."""

MOST_REGIONS = 1 << 11
"""The most regions of a lot, because small ones cost more than their pages do."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts over some regions, in pages."""

    pages: int = 0
    merged: int = 0
    zero: int = 0
    unshared: int = 0
    volatile: int = 0
    runs: int = 0
    """Runs of consecutive slots: the mappings that merging costs."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.pages + other.pages,
            self.merged + other.merged,
            self.zero + other.zero,
            self.unshared + other.unshared,
            self.volatile + other.volatile,
            self.runs + other.runs,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Lot:
    """Pages of several regions, or a part of one, that are counted in one step."""

    digest: npt.NDArray[np.uint64]
    standing: npt.NDArray[np.uint8]
    slot: npt.NDArray[np.uint32]
    before: npt.NDArray[np.uint32]
    """u32[n]: the slot of the previous page; ``NO_SLOT`` where a region begins."""


def lots(regions: Iterable[Pages]) -> Iterator[Lot]:
    """Split all pages of ``regions`` into lots; each page is in one of them."""
    some: list[Pages] = []
    count = 0
    for pages in regions:
        if len(pages.slot) >= MOST_PAGES:
            yield from _parts(pages)
            continue
        some.append(pages)
        count += len(pages.slot)
        if count >= MOST_PAGES or len(some) >= MOST_REGIONS:
            yield _together(some)
            some, count = [], 0
    if some:
        yield _together(some)


def _parts(pages: Pages) -> Iterator[Lot]:
    """Split one large region into lots."""
    for first in range(0, len(pages.slot), MOST_PAGES):
        part = slice(first, first + MOST_PAGES)
        slot = pages.slot[part]
        before = np.empty_like(slot)
        before[0] = pages.slot[first - 1] if first else NO_SLOT
        before[1:] = slot[:-1]
        yield Lot(pages.digest[part], pages.standing[part], slot, before)


def _together(some: Sequence[Pages]) -> Lot:
    """Join several small regions into one lot."""
    slot = np.concatenate([pages.slot[:] for pages in some])
    before = np.empty_like(slot)
    before[1:] = slot[:-1]
    ends = np.cumsum([len(pages.slot) for pages in some])
    before[np.concatenate([[0], ends[:-1]])] = NO_SLOT
    digest = np.concatenate([pages.digest for pages in some])
    return Lot(digest, np.concatenate([pages.standing for pages in some]), slot, before)


def tally(lot: Lot, required: int) -> Counts:
    """Count the pages of a lot; ``required`` looks make a page stable."""
    slot = lot.slot
    mapped = slot < OWN_SLOT
    seen = (lot.digest != ABSENT) & (slot == NO_SLOT)
    stable = seen & (lot.standing & LOOKS >= required)
    goes_on = mapped & (lot.before < OWN_SLOT) & (slot - lot.before == 1)
    merged, unshared = int(np.count_nonzero(mapped)), int(np.count_nonzero(stable))
    return Counts(
        len(slot),
        merged,
        int(np.count_nonzero(slot == ZERO_SLOT)),
        unshared,
        int(np.count_nonzero(seen)) - unshared,
        merged - int(np.count_nonzero(goes_on)),
    )


def sharers(maps: Iterable[npt.NDArray[np.uint32]], slots: int) -> npt.NDArray[np.uint32]:
    """Count the pages that map each slot: u32[slots].

    ``maps``: ``slot`` or ``under`` of regions.
    """
    counts = np.zeros(slots, np.uint32)
    left = iter(maps)
    while some := list(islice(left, MOST_REGIONS)):
        large = [it for it in some if len(it) >= MOST_PAGES]
        small = [it for it in some if len(it) < MOST_PAGES]
        for slot in [*large, np.concatenate(small)] if small else large:
            count(slot, counts)
    return counts
