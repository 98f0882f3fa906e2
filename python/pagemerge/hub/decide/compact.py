"""Which slabs are mostly dead, so that moving what lives in them gives memory back.

A slab's memory comes back when its last mapping goes, and not before: one page that somebody
still maps keeps all of it. So the live slots of slabs that are mostly dead are copied into a new
one, and pages that were written since leave the slab under them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagemerge.hub.model import NO_SLOT, OWN_SLOT, Pages

Counts = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a slab's slots are among the numbers of its domain."""

    slab: int
    base: int
    pages: int


SMALL = 256
"""Pages below which a slab is small: its descriptor costs more than it is worth."""
MOST_SMALL = 16
"""Small slabs that a domain may have before they are put together."""


def worth_emptying(
    slabs: Sequence[Extent], sharers: Counts, dead_share: float, most: int
) -> list[Extent]:
    """Slabs that should be emptied now, so many that what lives in them fits ``most`` slots.

    Those of whose slots more than ``dead_share`` (0 to 1) have no sharers, the emptiest first;
    and small ones, if there are many. ``sharers`` u32[slots]: pages that map each slot.
    """
    live = {it: int(np.count_nonzero(sharers[it.base : it.base + it.pages])) for it in slabs}
    dying = [it for it in slabs if live[it] < it.pages * (1 - dead_share)]
    small = [it for it in slabs if it.pages < SMALL and it not in dying]
    if len(small) > MOST_SMALL:
        dying += small
    found, total = [], 0
    for slab in sorted(dying, key=lambda it: live[it] / it.pages):
        if total + live[slab] <= most:
            found.append(slab)
            total += live[slab]
    return found


def live_slots(slabs: Sequence[Extent], sharers: Counts) -> npt.NDArray[np.uint32]:
    """The slots of these slabs that somebody maps, ascending: u32[n]."""
    parts = [np.flatnonzero(sharers[it.base : it.base + it.pages]) + it.base for it in slabs]
    return np.sort(np.concatenate(parts or [np.empty(0, np.int64)])).astype(np.uint32)


def moves(
    pages: Pages, slabs: Sequence[Extent], old: npt.NDArray[np.uint32], first_new: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """What the pages of a region have to do so that the slabs can die.

    Slot ``old[i]`` (ascending) has been copied to slot ``first_new + i``. Returns the indices of
    pages i64[n], ascending, and the slots that they shall map: u32[n], ``OWN_SLOT`` for pages
    that were written since.
    """
    concerned = np.zeros(len(pages.under), np.bool_)
    for slab in slabs:
        concerned |= (pages.under >= slab.base) & (pages.under < slab.base + slab.pages)
    index = np.flatnonzero(concerned)
    slot = pages.slot[index]
    at = np.searchsorted(old, slot)
    at[at == len(old)] = 0
    known = (old[at] == slot) if len(old) else np.zeros(len(slot), np.bool_)
    target = np.where(known, at + first_new, OWN_SLOT).astype(np.uint32)
    # A page whose slot is of another slab than the mapping under it does not exist; one that
    # was merged a moment ago is left for the next time.
    keep = known | (slot == NO_SLOT)
    return index[keep], target[keep]
