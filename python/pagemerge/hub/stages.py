"""A plan at work, slab by slab: while one is merged, the next is filled.

So the memory of a new slab is what merging the one before has given back: a host that is short of
memory needs none of it first, and pages that were just freed are still in the processor's cache.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.find.groups import duplicates
from pagemerge.hub.boundary import pass_over
from pagemerge.hub.client import Client
from pagemerge.hub.decide import plan, restless
from pagemerge.hub.model import NO_SLOT, Candidates, Layout
from pagemerge.model import ZERO

if TYPE_CHECKING:
    from pagemerge.hub.domain import Members
    from pagemerge.hub.hub import Hub

AHEAD = 2
"""Slabs that are filled, or being filled, and not merged by all yet."""

U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]


def lay_out(members: Members, found: Candidates) -> Layout:
    """Decide: which page maps which slot; the numbers of new ones are for this plan only."""
    store = members.store
    known = store.find(found.digest)
    unknown = np.flatnonzero((known == NO_SLOT) & (found.digest > ZERO))
    groups = duplicates(found.digest[unknown])
    return plan.lay_out(found, known, unknown[groups.members], groups.starts, store.next_slot)


@dataclass(slots=True, eq=False)
class _Share:
    """A client's part of a plan."""

    client: Client
    pages: I64
    """i64[n]: which candidates, those of a stage together, in order of address there."""
    ends: I64
    """i64[stages]: where each stage ends in ``pages``."""

    def of(self, stage: int) -> I64:
        """The candidates that it merges in a stage."""
        return self.pages[self.ends[stage - 1] if stage else 0 : self.ends[stage]]


class Stages:
    """One plan, while it is carried out. Stage 0 needs no new slab, stage ``k`` the ``k``-th."""

    def __init__(self, hub: Hub, members: Members, found: Candidates, layout: Layout) -> None:
        self._hub, self._members, self._found, self._layout = hub, members, found, layout
        self._made: U32 = np.full(len(layout.donors), NO_SLOT, np.uint32)
        """What number each new slot has got."""
        self._count = 1 + -(-len(layout.donors) // _core.SLAB_PAGES)
        self._filled = [asyncio.Event() for _ in range(self._count)]
        self._filled[0].set()
        self._merged = [asyncio.Event() for _ in range(self._count)]
        """Set when all clients are through with a stage."""
        self._left: list[int] = []
        """How many are not, for each stage."""

    async def run(self, clients: list[Client]) -> int:
        """Carry it out; ``clients`` by their number in it. Returns the pages merged."""
        shares = await asyncio.gather(*(self._share(n, it) for n, it in enumerate(clients)))
        if len(self._layout.donors):
            for client in clients:
                self._hub.quota.forget(client)
        for stage in range(self._count):
            self._left.append(sum(len(it.of(stage)) > 0 for it in shares))
            if self._left[stage] == 0:
                self._merged[stage].set()
        merging = asyncio.gather(*(self._merge_all(it) for it in shares))
        await asyncio.gather(self._fill_all(clients), merging)
        return sum(merging.result())

    async def _share(self, number: int, client: Client) -> _Share:
        """What a client can map, and when: the longest runs, where mappings are short."""
        found, layout = self._found, self._layout
        start, end = np.searchsorted(found.client, (number, number + 1))
        mine = start + np.flatnonzero(layout.slot[start:end] != NO_SLOT)
        slot = layout.slot[mine]
        slab, _ = self._members.store.locate(slot)
        new = layout.new(slot)
        stage = np.zeros(len(mine), np.uint64)
        stage[new] = (slot[new] - np.uint32(layout.first_new)) // _core.SLAB_PAGES + 1
        slab[new] = stage[new] + (1 << 63)  # unlike every inode number
        pages = found.address[mine]
        runs = plan.runs(pages, slot, slab)
        try:
            kept = await self._hub.affordable(client, runs, slab, self._hub.settings.least_run)
        except Exception as error:
            self._members.pending += len(mine)
            pass_over(client, error)
            return _Share(client, np.empty(0, np.int64), np.zeros(self._count, np.int64))
        client.skipped["over_budget"] = int(runs.pages.sum() - runs.pages[kept].sum())
        chosen = plan.pages_of(runs, kept)
        when = plan.stages(pages[chosen], stage[chosen].astype(np.int64), self._count - 1)
        order = np.argsort(when, kind="stable")
        ends = np.searchsorted(when[order], np.arange(self._count), side="right")
        return _Share(client, mine[chosen[order]], ends)

    async def _fill_all(self, clients: list[Client]) -> None:
        """Make slab after slab, but not many that have not been merged yet."""
        for stage in range(1, self._count):
            if stage > AHEAD:
                await self._merged[stage - AHEAD].wait()
            await self._fill(clients, stage)
            self._filled[stage].set()

    async def _merge_all(self, share: _Share) -> int:
        """Have a client carry out its part of each stage as soon as its slab is there."""
        merged = 0
        for stage in range(self._count):
            if len(share.of(stage)) == 0:
                continue
            await self._filled[stage].wait()
            merged += await self._merge(share, stage)
            self._left[stage] -= 1
            if self._left[stage] == 0:
                self._merged[stage].set()
        return merged

    async def _fill(self, clients: list[Client], stage: int) -> None:
        """Make the slab of a stage."""
        part = slice((stage - 1) * _core.SLAB_PAGES, stage * _core.SLAB_PAGES)
        donors = self._layout.donors[part]
        found, members = self._found, self._members
        address, digest = found.address[donors], found.digest[donors]
        whose = found.client[donors].astype(np.uint64)
        # What came by a merge at birth meanwhile is there already.
        made, changed = await members.filler.provide(members, clients, whose, address, digest)
        self._made[part] = made
        anew = donors[changed]
        for number, client in enumerate(clients):
            for region, _, index in client.locate(
                found.address[anew[found.client[anew] == number]]
            ):
                restless.begin_anew(region.pages, index, self._hub.most_vain)

    async def _merge(self, share: _Share, stage: int) -> int:
        """Have a client carry out its part of a stage; returns the pages merged."""
        pages = share.of(stage)
        if not share.client.is_ready:  # it owes us an answer of a stage before
            self._members.pending += len(pages)
            return 0
        slot = self._layout.slot[pages]
        new = self._layout.new(slot)
        slot[new] = self._made[slot[new] - np.uint32(self._layout.first_new)]
        there = slot != NO_SLOT
        address = self._found.address[pages[there]]
        return await self._hub.carry_out(self._members, share.client, address, slot[there])
