"""Decides which slabs are mostly dead, so that moving their live slots frees memory.

The kernel frees a slab when its last mapping goes, and not before: one page that a process still
maps keeps all of the slab. So the hub copies the live slots of slabs that are mostly dead into a
new one, and clients remove the mapping of the old slab under pages that were written since.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagemerge.hub.model import NO_SLOT, OWN_SLOT
from pagemerge.hub.pages import Pages

Counts = npt.NDArray[np.uint32]
Slots = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Extent:
    """The numbers of a slab's slots in its domain: ``base`` is the first of ``pages`` numbers."""

    slab: int
    base: int
    pages: int


SMALL = 256
"""Pages below which a slab is small: its descriptor costs more than the slab is worth."""
MOST_SMALL = 16
"""The most small slabs that a domain may have before they are put together."""


def worth_emptying(
    slabs: Sequence[Extent], sharers: Counts, dead_share: float, most: int
) -> list[Extent]:
    """Return the slabs to empty now, so many that their live slots fit into ``most`` slots.

    These are slabs of whose slots more than ``dead_share`` (0 to 1) have no sharers, the emptiest
    first, and small slabs, if there are many. ``sharers`` u32[slots]: pages that map each slot.
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


def live_slots(slabs: Sequence[Extent], sharers: Counts) -> Slots:
    """Return the slots of these slabs that some page maps, ascending: u32[n]."""
    return _slots(slabs, sharers > 0)


def dead_slots(slabs: Sequence[Extent], sharers: Counts, unknown: Container[int]) -> Slots:
    """Return the slots of these slabs that no page maps, ascending: u32[n]. None of slabs in
    ``unknown``, which clients may map though the hub does not know it yet."""
    return _slots([it for it in slabs if it.slab not in unknown], sharers == 0)


def _slots(slabs: Sequence[Extent], chosen: Bools) -> Slots:
    parts = [np.flatnonzero(chosen[it.base : it.base + it.pages]) + it.base for it in slabs]
    return np.sort(np.concatenate(parts or [np.empty(0, np.int64)])).astype(np.uint32)


def are_inside(slots: Slots, slabs: Sequence[Extent]) -> Bools:
    """Return which of these numbers are slots of one of the slabs: bool[n]."""
    inside = np.zeros(len(slots), np.bool_)
    for it in slabs:
        inside |= (slots >= it.base) & (slots < it.base + it.pages)
    return inside


def moves(
    pages: Pages, slabs: Sequence[Extent], old: Slots, new: Slots
) -> tuple[npt.NDArray[np.int64], Slots]:
    """Return which pages of a region must map other slots, so that the slabs can be dropped.

    Slot ``new[i]`` has the same contents as slot ``old[i]`` (ascending). Returns the indices of
    pages i64[n], ascending, and the slots that they must map: u32[n], ``OWN_SLOT`` for pages that
    were written since.
    """
    under = pages.under[:]
    index = np.flatnonzero(are_inside(under, slabs))
    slot = pages.slot[index]
    at = np.searchsorted(old, slot)
    at[at == len(old)] = 0
    known = (old[at] == slot) if len(old) else np.zeros(len(slot), np.bool_)
    target = np.full(len(slot), OWN_SLOT, np.uint32)
    target[known] = new[at[known]]
    # No page maps a slot of another slab than the mapping under it has. A page that was merged a
    # moment ago is left for the next time.
    keep = known | (slot == NO_SLOT)
    return index[keep], target[keep]
