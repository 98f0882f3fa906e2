"""Makes a plan from candidates: which page maps which slot, and which slots are new.

Pure functions on arrays. Order matters twice. New slots have the order of the pages that need them
first, so that runs stay runs (each mapping costs the kernel a VMA). And if there are too few
mappings, the longest runs come first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pagemerge.hub.decide import blocks
from pagemerge.hub.model import NO_SLOT, OWN_SLOT, ZERO_SLOT, Candidates, Layout, Runs
from pagemerge.model import PAGE_SIZE, ZERO

MOST_VISITS = 2
"""The most times that a client raises its barrier for the same memory, on average."""

_WINDOW_BITS = 18
"""64 pages: the memory that the barrier ``move`` holds at a time."""

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


def lay_out(
    found: Candidates,
    known: npt.NDArray[np.uint32],
    members: I64,
    starts: I64,
    next_slot: int,
    dear: npt.NDArray[np.bool_] | None = None,
) -> Layout:
    """Give each candidate a slot.

    ``known`` u32[n]: the slot whose digest the store has, or ``NO_SLOT``; ``members`` and
    ``starts``: groups of equal digests among the candidates (indices into ``found``, ascending
    inside a group). Only groups without a known slot get new slots, from ``next_slot`` on.
    ``dear`` bool[n]: the candidate lies in a block that would be a huge page. Of those, blocks that
    need 512 new slots get the first ones, so that they can be huge pages of a slab.
    """
    slot = known.copy()
    slot[found.digest == ZERO] = ZERO_SLOT
    first = members[starts[:-1]]
    sizes = np.diff(starts)
    unknown = slot[first] == NO_SLOT
    first, sizes = first[unknown], sizes[unknown]
    order, whole = np.argsort(first), 0
    if dear is not None:
        chosen = blocks.whole(found, first[order], dear)
        order, whole = np.append(order[chosen], order[~chosen]), int(np.count_nonzero(chosen))
    rank = np.empty(len(first), np.uint32)
    rank[order] = np.arange(len(first), dtype=np.uint32)
    chosen = members[np.repeat(unknown, np.diff(starts))]
    slot[chosen] = np.repeat(rank, sizes) + np.uint32(next_slot)
    return Layout(slot=slot, donors=first[order], first_new=next_slot, whole=whole)


def runs(address: U64, slot: npt.NDArray[np.uint32], slab: U64) -> Runs:
    """Return the maximal runs of pages at consecutive addresses that map consecutive slots of one
    slab.

    All three arrays have one element a page, in order of address. Zero pages have ``ZERO_SLOT`` and
    slab 0 and form runs of their own; so do pages with ``OWN_SLOT``. The caller leaves out pages
    with ``NO_SLOT``.
    """
    if len(address) == 0:
        none = np.empty(0, np.int64)
        return Runs(none, none)
    step = np.diff(slot)
    joined = (
        (np.diff(address) == PAGE_SIZE)
        & (slab[1:] == slab[:-1])
        & (step == (slot[1:] < OWN_SLOT))  # 1 for slot numbers, 0 for ZERO_SLOT and OWN_SLOT
    )
    first = np.flatnonzero(np.concatenate(([True], ~joined)))
    return Runs(first, np.diff(np.append(first, len(address))))


def within_budget(found: Runs, costs: npt.NDArray[np.bool_], budget: int, least: int) -> I64:
    """Return the indices of the runs to carry out, in order of address.

    ``costs``: whether a run costs a mapping (zero runs in anonymous memory do not). At most
    ``budget`` of those are kept, the longest first, and none shorter than ``least`` pages.
    """
    wanted = ~costs | (found.pages >= least)
    costly = np.flatnonzero(wanted & costs)
    if len(costly) > budget:
        by_length = np.argsort(-found.pages[costly], kind="stable")
        wanted[costly[by_length[max(budget, 0) :]]] = False
    return np.flatnonzero(wanted)


def pages_of(found: Runs, kept: I64) -> I64:
    """Return the indices of all pages of the runs ``kept``, in order: i64[n]."""
    first, pages = found.first[kept], found.pages[kept]
    before = np.concatenate(([0], np.cumsum(pages)[:-1]))
    return np.repeat(first - before, pages) + np.arange(pages.sum())


def stages(address: U64, stage: I64, last: int) -> I64:
    """Return the stage in which each page of a client is merged: i64[n].

    ``stage`` i64[n]: the first stage in which the slot of the page is filled; ``address`` u64[n]
    ascends; ``last`` is the last stage. Pages are merged as early as possible without visiting the
    same memory in each stage: raising a barrier costs as much as a few pages. If the pages of a
    client have another order than the slots, the client waits until more slots, or all, are filled.
    """
    window = address >> np.uint64(_WINDOW_BITS)
    moves_on = np.diff(window) != 0
    windows = 1 + np.count_nonzero(moves_on)
    step = 1
    while np.count_nonzero(moves_on | (np.diff(stage) != 0)) + 1 > MOST_VISITS * windows:
        step *= 2
        stage = np.minimum((stage // step + 1) * step - 1, last)
    return stage


MOST_RUNS = 1024
"""The most runs of a part: the hub notes the report of a part region by region, about 0.1 ms each,
and other clients wait meanwhile."""


def parts(pages: npt.NDArray[np.uint32], most: int) -> list[tuple[slice, slice]]:
    """Split runs, one element each, into parts of about ``most`` pages: (its runs, its pages).

    A run is never split, so a part may be longer by less than its last run. A part has at most
    ``MOST_RUNS`` runs.
    """
    ends = np.cumsum(pages, dtype=np.int64)
    found, run, page = [], 0, 0
    while run < len(ends):
        after = min(int(np.searchsorted(ends, page + most)) + 1, len(ends), run + MOST_RUNS)
        found.append((slice(run, after), slice(page, int(ends[after - 1]))))
        run, page = after, int(ends[after - 1])
    return found
