"""Carries out a plan, slab by slab: while clients merge one slab, the hub fills the next.

So a new slab takes the memory that merging the previous slab has freed: a host that is short of
memory needs no extra memory first, and pages that were just freed are still in the processor's
cache.
"""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.hub.client import Client
from pagemerge.hub.decide import restless
from pagemerge.hub.merging import Merger
from pagemerge.hub.model import BLOCK, NO_SLOT
from pagemerge.hub.planning import Plan, Share

AHEAD = 2
"""The most slabs that are filled, or being filled, and that not all clients have merged yet."""


class Stages:
    """A plan while the hub carries it out."""

    def __init__(self, merger: Merger, plan: Plan) -> None:
        self._merger, self._members, self._plan = merger, merger.members, plan
        self._used = plan.used()
        self._made: npt.NDArray[np.uint32] = np.full(len(self._used), NO_SLOT, np.uint32)
        """u32[new slots]: the number that the store has given each new slot."""
        self._filled = [asyncio.Event() for _ in range(plan.stages)]
        self._filled[0].set()
        self._merged = [asyncio.Event() for _ in range(plan.stages)]
        """Set when all clients have finished a stage."""
        self._left: list[int] = []
        """Number of clients that have not finished each stage."""

    async def run(self) -> int:
        """Carry out the plan; returns the number of pages merged."""
        shares = self._plan.shares
        for stage in range(self._plan.stages):
            self._left.append(sum(len(it.of(stage)) > 0 for it in shares))
            if self._left[stage] == 0:
                self._merged[stage].set()
        merging = asyncio.gather(*(self._merge_all(it) for it in shares))
        await asyncio.gather(self._fill_all([it.client for it in shares]), merging)
        return sum(merging.result())

    async def _fill_all(self, clients: list[Client]) -> None:
        """Make slab after slab, but at most ``AHEAD`` before they are merged."""
        for stage in range(1, self._plan.stages):
            if stage > AHEAD:
                await self._merged[stage - AHEAD].wait()
            await self._fill(clients, stage)
            self._filled[stage].set()

    async def _merge_all(self, share: Share) -> int:
        """Have a client carry out its part of each stage as soon as the stage's slab is filled."""
        merged = 0
        for stage in range(self._plan.stages):
            if len(share.of(stage)) == 0:
                continue
            await self._filled[stage].wait()
            merged += await self._merge(share, stage)
            self._left[stage] -= 1
            if self._left[stage] == 0:
                self._merged[stage].set()
        return merged

    async def _fill(self, clients: list[Client], stage: int) -> None:
        """Make the slab of a stage, from the slots that some client is going to map."""
        first = (stage - 1) * _core.SLAB_PAGES
        new = first + np.flatnonzero(self._used[first : first + _core.SLAB_PAGES])
        if len(new) == 0:
            return
        found, donors = self._plan.found, self._plan.layout.donors[new]
        address, digest = found.address[donors], found.digest[donors]
        whose = found.client[donors].astype(np.uint64)
        # The store already has contents that a merge at birth has added meanwhile.
        whole = min(max(self._plan.layout.whole - first, 0), _core.SLAB_PAGES) // BLOCK
        made, changed = await self._merger.filler.provide(
            clients, whose, address, digest, whole=whole
        )
        self._made[new] = made
        anew = donors[changed]
        for number, client in enumerate(clients):
            for region, _, index in client.locate(
                found.address[anew[found.client[anew] == number]]
            ):
                restless.begin_anew(region.pages, index, self._merger.most_vain)

    async def _merge(self, share: Share, stage: int) -> int:
        """Have a client carry out its part of a stage; returns the number of pages merged."""
        share.release(stage)
        pages, layout = share.of(stage), self._plan.layout
        if not share.client.is_ready:  # it owes the hub an answer of an earlier stage
            self._members.await_plan(len(pages))
            return 0
        slot = layout.slot[pages]
        new = layout.new(slot)
        slot[new] = self._made[slot[new] - np.uint32(layout.first_new)]
        there = slot != NO_SLOT
        address = self._plan.found.address[pages[there]]
        merged = await self._merger.carry_out(share.client, address, slot[there])
        share.client.attention.found += merged
        return merged
