"""From the arrays of a domain to KSM's counters; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagemerge._core import count
from pagemerge.model import ABSENT, LOOKS, NO_SLOT, OWN_SLOT, ZERO_SLOT, Pages

VMA_BYTES = 287
"""What a mapping costs the kernel, measured with 60,000 single-page mappings of one slab."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over some regions, in pages."""

    merged: int = 0
    zero: int = 0
    unshared: int = 0
    volatile: int = 0
    runs: int = 0
    """Runs of consecutive slots: the mappings that merging costs."""


def tally(regions: Sequence[Pages], required: int) -> Tally:
    """Count over the regions of one client; ``required`` looks make a page stable."""
    merged = zero = unshared = volatile = runs = 0
    for pages in regions:
        slot = pages.slot
        mapped = slot < OWN_SLOT
        merged += int(np.count_nonzero(mapped))
        zero += int(np.count_nonzero(slot == ZERO_SLOT))
        seen = (pages.digest != ABSENT) & (slot == NO_SLOT)
        stable = seen & (pages.standing & LOOKS >= required)
        unshared += int(np.count_nonzero(stable))
        volatile += int(np.count_nonzero(seen)) - int(np.count_nonzero(stable))
        starts = mapped.copy()
        starts[1:] &= ~(mapped[:-1] & (np.diff(slot) == 1))
        runs += int(np.count_nonzero(starts))
    return Tally(merged, zero, unshared, volatile, runs)


def sharers(maps: Iterable[npt.NDArray[np.uint32]], slots: int) -> npt.NDArray[np.uint32]:
    """How many pages map each slot: u32[slots]. ``maps``: ``slot`` (or ``under``) of regions."""
    counts = np.zeros(slots, np.uint32)
    for slot in maps:
        count(slot, counts)
    return counts
