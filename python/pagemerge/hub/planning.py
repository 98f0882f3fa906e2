"""Makes a plan for one domain, complete before the hub begins it; ``--dry-run`` prints this plan.

The plan says which page maps which slot, which new slots a quota admits, which runs each client has
mappings for, and in which stage each page is merged. ``stages`` carries it out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.find.groups import duplicates
from pagemerge.hub.boundary import pass_over
from pagemerge.hub.client import Client
from pagemerge.hub.decide import plan
from pagemerge.hub.decide.blocks import BLOCK_SIZE, extent, merged, spared
from pagemerge.hub.merging import Merger
from pagemerge.hub.model import BLOCK, NO_SLOT, ZERO_SLOT, Candidates, Layout, Planned
from pagemerge.hub.turns import breathe
from pagemerge.model import PAGE_SIZE, ZERO

I64 = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Share:
    """A client's part of a plan."""

    client: Client
    pages: I64
    """i64[n]: indices of its candidates, grouped by stage, in order of address in each stage."""
    ends: I64
    """i64[stages]: where each stage ends in ``pages``."""
    mappings: I64
    """i64[stages]: mappings that are set aside for each stage."""

    def of(self, stage: int) -> I64:
        """Return the candidates that the client merges in a stage."""
        return self.pages[self.ends[stage - 1] if stage else 0 : self.ends[stage]]

    def release(self, stage: int) -> None:
        """Set nothing aside for a stage any more: it is carried out now, or never will be."""
        self.client.promised -= int(self.mappings[stage])
        self.mappings[stage] = 0


@dataclass(slots=True, eq=False)
class Plan:
    """A plan in stages: stage 0 needs no new slab, stage ``k`` needs the ``k``-th new slab."""

    found: Candidates
    layout: Layout
    shares: list[Share]
    stages: int

    def used(self) -> npt.NDArray[np.bool_]:
        """Return which of the new slots some client is going to map: bool[new slots]."""
        used = np.zeros(len(self.layout.donors), np.bool_)
        for share in self.shares:
            slot = self.layout.slot[share.pages]
            used[slot[self.layout.new(slot)] - np.uint32(self.layout.first_new)] = True
        return used

    def describe(self) -> tuple[Planned, ...]:
        """Return what the plan means for each client."""
        donors = self.found.client[self.layout.donors[self.used()]]
        rows = []
        for number, share in enumerate(self.shares):
            zero = int(np.count_nonzero(self.layout.slot[share.pages] == ZERO_SLOT))
            rows.append(
                Planned(
                    pid=share.client.pid,
                    pages=len(share.pages) - zero,
                    zero_pages=zero,
                    mappings=int(share.mappings.sum()),
                    new_slots=int(np.count_nonzero(donors == number)),
                )
            )
        return tuple(rows)

    def __enter__(self) -> Self:
        """Set mappings aside for all that the plan has clients map."""
        for share in self.shares:
            share.client.promised += int(share.mappings.sum())
        return self

    def __exit__(self, *_: object) -> None:
        """Set nothing aside any more: the plan is done, or has failed."""
        for share in self.shares:
            for stage in range(self.stages):
                share.release(stage)


async def make(merger: Merger, clients: list[Client], found: Candidates) -> Plan:
    """Make the plan for the candidates ``found``, which number ``clients`` in this order."""
    members = merger.members
    layout = await _lay_out(merger, clients, found)
    if len(layout.donors):
        for client in clients:
            merger.quota.forget(client)
        pids = np.array([client.pid for client in clients], np.uint64)
        layout = layout.only(merger.quota.admit(members, pids[found.client[layout.donors]]))
    stages = 1 + -(-len(layout.donors) // _core.SLAB_PAGES)
    shares = await asyncio.gather(
        *(_share(merger, found, layout, stages, it) for it in enumerate(clients))
    )
    return Plan(found, layout, shares, stages)


async def _lay_out(merger: Merger, clients: list[Client], found: Candidates) -> Layout:
    """Give each candidate a slot, except in blocks that stay huge pages; the numbers of new slots
    are for this plan only."""
    store = merger.members.store
    known = store.find(found.digest)
    unknown = np.flatnonzero((known == NO_SLOT) & (found.digest > ZERO))
    groups = duplicates(found.digest[unknown])
    dear, already = await _dear(merger, clients, found)
    spare = np.zeros(len(dear), np.bool_)
    if dear.any():
        group = np.full(len(known), -1, np.int64)
        group[unknown[groups.members]] = np.repeat(
            np.arange(len(groups.starts) - 1), np.diff(groups.starts)
        )
        saves = (known != NO_SLOT) | (found.digest == ZERO)
        block = (found.address // BLOCK_SIZE).astype(np.int64)
        block += found.client.astype(np.int64) << 40
        spare = spared(block, group, saves, dear, already, merger.settings.huge_price)
        _count_spared(clients, found, spare & (saves | (group >= 0)))
    if spare.any():  # what is left may have no equal any more
        unknown = unknown[~spare[unknown]]
        groups = duplicates(found.digest[unknown])
    members = unknown[groups.members]
    layout = plan.lay_out(found, known, members, groups.starts, store.next_slot, dear)
    layout.slot[spare] = NO_SLOT
    return layout


async def _dear(
    merger: Merger, clients: list[Client], found: Candidates
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint16]]:
    """Return which candidates lie in blocks that would be huge pages, and how many pages of the
    block of each of these are merged already: bool[n], u16[n]."""
    dear, already = np.zeros(len(found.digest), np.bool_), np.zeros(len(found.digest), np.uint16)
    if merger.settings.huge_price == 0:
        return dear, already
    for number, client in enumerate(clients):
        client.forget("huge")
        base, end = np.searchsorted(found.client, (number, number + 1))
        mine = found.address[base:end]
        for region in list(client.regions.values()):
            first, count = extent(region.start, len(region))
            if not region.huge or count == 0:
                continue
            await breathe()
            start = region.start + first * PAGE_SIZE
            here = slice(*(base + np.searchsorted(mine, (start, start + count * BLOCK_SIZE))))
            dear[here] = True
            counts = merged(region.pages.slot[first : first + count * BLOCK])
            already[here] = counts[(found.address[here] - np.uint64(start)) // BLOCK_SIZE]
    return dear, already


def _count_spared(clients: list[Client], found: Candidates, spare: npt.NDArray[np.bool_]) -> None:
    counts = np.bincount(found.client[spare], minlength=len(clients))
    for client, count in zip(clients, counts.tolist(), strict=True):
        client.leave_alone("huge", count)


async def _share(
    merger: Merger, found: Candidates, layout: Layout, stages: int, whose: tuple[int, Client]
) -> Share:
    """Return what a client can map, and in which stage: the longest runs if mappings are scarce."""
    number, client = whose
    start, end = np.searchsorted(found.client, (number, number + 1))
    mine = start + np.flatnonzero(layout.slot[start:end] != NO_SLOT)
    slot = layout.slot[mine]
    slab, _ = merger.members.store.locate(slot)
    new = layout.new(slot)
    stage = np.zeros(len(mine), np.uint64)
    stage[new] = (slot[new] - np.uint32(layout.first_new)) // _core.SLAB_PAGES + 1
    slab[new] = stage[new] + (1 << 63)  # unlike every inode number
    pages = found.address[mine]
    runs = plan.runs(pages, slot, slab)
    try:
        kept = await merger.afford(client, runs, slab, merger.settings.least_run)
    except Exception as error:
        merger.members.await_plan(len(mine))
        pass_over(client, error)
        return Share(client, np.empty(0, np.int64), *np.zeros((2, stages), np.int64))
    client.forget("over_budget")
    client.leave_alone("over_budget", int(runs.pages.sum() - runs.pages[kept].sum()))
    chosen = plan.pages_of(runs, kept)
    when = plan.stages(pages[chosen], stage[chosen].astype(np.int64), stages - 1)
    order = np.argsort(when, kind="stable")
    ends = np.searchsorted(when[order], np.arange(stages), side="right")
    # A run lies in one slab, so in one stage.
    heads = np.cumsum(runs.pages[kept]) - runs.pages[kept]
    costly = slab[runs.first[kept]] != 0
    mappings = np.bincount(when[heads[costly]], minlength=stages)
    return Share(client, mine[chosen[order]], ends, mappings)
