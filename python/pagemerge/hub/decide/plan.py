"""From candidates to a plan: which page maps which slot, and which slots are new.

Pure functions on arrays. Order matters twice: new slots are laid out in the order of the pages
that need them first, so that runs stay runs (a mapping costs the kernel a VMA each); and where
mappings are short, the longest runs come first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pagemerge.hub.model import NO_SLOT, OWN_SLOT, ZERO_SLOT, Candidates, Layout, Runs
from pagemerge.model import PAGE_SIZE, ZERO

MOST_VISITS = 2
"""How often a client's barrier may be raised for the same memory, on average."""

_WINDOW_BITS = 18
"""64 pages: what the barrier ``move`` holds at a time."""

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


def lay_out(
    found: Candidates,
    known: npt.NDArray[np.uint32],
    members: I64,
    starts: I64,
    next_slot: int,
) -> Layout:
    """Give each candidate a slot.

    ``known`` u32[n]: the slot whose digest the store has, or ``NO_SLOT``; ``members`` and
    ``starts``: groups of equal digests among the candidates (indices into ``found``, ascending
    inside a group), of which only those without a known slot get new ones, from ``next_slot`` on.
    """
    slot = known.copy()
    slot[found.digest == ZERO] = ZERO_SLOT
    first = members[starts[:-1]]
    sizes = np.diff(starts)
    unknown = slot[first] == NO_SLOT
    first, sizes = first[unknown], sizes[unknown]
    order = np.argsort(first)
    rank = np.empty(len(first), np.uint32)
    rank[order] = np.arange(len(first), dtype=np.uint32)
    chosen = members[np.repeat(unknown, np.diff(starts))]
    slot[chosen] = np.repeat(rank, sizes) + np.uint32(next_slot)
    return Layout(slot=slot, donors=first[order], first_new=next_slot)


def runs(address: U64, slot: npt.NDArray[np.uint32], slab: U64) -> Runs:
    """Maximal runs of pages at consecutive addresses that map consecutive slots of one slab.

    All three arrays have one element a page, in order of address; zero pages have ``ZERO_SLOT``
    and slab 0 and form runs of their own, as do pages with ``OWN_SLOT``. Pages with ``NO_SLOT``
    must have been left out.
    """
    if len(address) == 0:
        none = np.empty(0, np.int64)
        return Runs(none, none)
    step = np.diff(slot)
    joined = (
        (np.diff(address) == PAGE_SIZE)
        & (slab[1:] == slab[:-1])
        & (step == (slot[1:] < OWN_SLOT))  # where it is not a slot's number, no step at all
    )
    first = np.flatnonzero(np.concatenate(([True], ~joined)))
    return Runs(first, np.diff(np.append(first, len(address))))


def within_budget(found: Runs, costs: npt.NDArray[np.bool_], budget: int, least: int) -> I64:
    """Indices of the runs to carry out, in order of address.

    ``costs``: whether a run costs a mapping (zero runs in anonymous memory do not); at most
    ``budget`` of those are kept, the longest first, and none shorter than ``least`` pages.
    """
    wanted = ~costs | (found.pages >= least)
    costly = np.flatnonzero(wanted & costs)
    if len(costly) > budget:
        by_length = np.argsort(-found.pages[costly], kind="stable")
        wanted[costly[by_length[max(budget, 0) :]]] = False
    return np.flatnonzero(wanted)


def pages_of(found: Runs, kept: I64) -> I64:
    """Indices of all pages of the runs ``kept``, in order: i64[n]."""
    first, pages = found.first[kept], found.pages[kept]
    before = np.concatenate(([0], np.cumsum(pages)[:-1]))
    return np.repeat(first - before, pages) + np.arange(pages.sum())


def stages(address: U64, stage: I64, last: int) -> I64:
    """When each page of a client is merged, if what it needs is there from ``stage`` i64[n] on.

    ``address`` u64[n] ascends; ``last`` is the last stage. As early as can be without going
    through the same memory in each stage: raising a barrier costs what a few pages cost. A client
    whose pages lie in another order than the slots waits until more of them, or all, are filled.
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
"""Runs of a part: what a report of it says is noted region by region, some 0.1 ms each, and others
wait meanwhile."""


def parts(pages: npt.NDArray[np.uint32], most: int) -> list[tuple[slice, slice]]:
    """Split runs, one element each, into parts of about ``most`` pages: (its runs, its pages).

    A run is never split, so a part may be longer by less than its last run; it has ``MOST_RUNS`` at
    the most.
    """
    ends = np.cumsum(pages, dtype=np.int64)
    found, run, page = [], 0, 0
    while run < len(ends):
        after = min(int(np.searchsorted(ends, page + most)) + 1, len(ends), run + MOST_RUNS)
        found.append((slice(run, after), slice(page, int(ends[after - 1]))))
        run, page = after, int(ends[after - 1])
    return found
