"""The state of a trust domain: its clients, its store, and what waits to be done.

What waits changes by the methods here only, each of which names the event that changes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pagemerge.hub.client import Client
from pagemerge.hub.decide.trust import Domain
from pagemerge.hub.patience import Patience
from pagemerge.hub.store import Store

FEW, FEW_OF = 64, 256
"""So many pages, and one for each so many of the domain, are no reason to plan anew: each plan goes
through the whole domain, and those that lie close to each other are merged behind one barrier."""

LOOK_UP = 0.5
"""Seconds of a rest after which a hub looks whether a client is left."""

AGAIN = 64
"""Cycles until slabs that some client did not leave are tried again."""


@dataclass(slots=True, eq=False)
class Filling:
    """Slots that are being filled."""

    digests: npt.NDArray[np.uint64]
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class Members:
    """A trust domain at work. Its pages and its store are never shared with another domain."""

    domain: Domain
    store: Store = field(default_factory=Store)
    clients: list[Client] = field(default_factory=list)
    patience: Patience = field(default_factory=Patience)
    cycles: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends the pause between two cycles: a client has joined, or has answered late."""
    fillings: list[Filling] = field(default_factory=list)
    """Those under way."""
    born: set[int] = field(default_factory=set)
    """Slabs that plans under way may use, though no client maps them yet."""
    stubborn: dict[int, int] = field(default_factory=dict)
    """Slabs that were to be emptied -> the cycle from which on that is tried again."""
    pending: int = 0
    """Pages for which no plan has been made since they became worth it, or whose plan failed."""
    grown: int = 0
    """Slots that requests have added and whose merges have not been reported yet."""
    short: int = 0
    """Slots that a quota has refused: they are pending again when there is room."""

    @property
    def is_worth_a_plan(self) -> bool:
        """Are many pages pending?"""
        return self.pending > FEW + sum(it.claimed[1] for it in self.clients) // FEW_OF

    @property
    def is_over(self) -> bool:
        """Is no client left, and nothing under way? Clients choose names: domains must end, too."""
        return not (self.clients or self.store.slabs or self.fillings)

    def await_plan(self, pages: int) -> None:
        """Pages have become worth merging, or a plan for them has failed."""
        self.pending += pages

    def begin_plan(self) -> None:
        """A plan is made for all that was pending."""
        self.pending = 0

    def refuse(self, slots: int) -> None:
        """A quota refuses new slots for now."""
        self.short += slots

    def find_room(self) -> None:
        """A store has become smaller: what was refused is tried again."""
        self.pending += self.short
        self.short = 0

    def grow(self, slots: int) -> None:
        """A request has added slots, which clients may share once its merge is reported."""
        self.grown += slots

    def share_grown(self) -> None:
        """A request's merge is reported: others may hold the same pages for long, and had nobody to
        share them with until now."""
        self.pending += self.grown
        self.grown = 0

    def adopt(self, slab: int) -> None:
        """A slab is new: it stays for one cycle though no client maps it yet."""
        self.born.add(slab)

    def outgrow(self, slab: int) -> bool:
        """A cycle is over: true if the slab was new until now."""
        is_new = slab in self.born
        self.born.discard(slab)
        return is_new

    def may_empty(self, slab: int) -> bool:
        """May clients be asked to leave a slab?"""
        return slab not in self.born and self.stubborn.get(slab, 0) <= self.cycles

    def try_to_empty(self, slabs: Iterable[int]) -> None:
        """Clients are asked to leave slabs; those that some do not leave rest for ``AGAIN``."""
        kept = {it: when for it, when in self.stubborn.items() if it in self.store.slabs}
        self.stubborn = kept | dict.fromkeys(slabs, self.cycles + AGAIN)

    def end_cycle(self) -> None:
        """A cycle is over."""
        self.cycles += 1
        self.patience.recover()

    def rouse(self, _: object = None) -> None:
        """Something has happened: the pause between two cycles ends. Fit to be a callback."""
        self.wake.set()

    async def rest(self, seconds: float) -> None:
        """Rest for what was worked; not for long once the last client has gone, so that its memory
        comes back soon."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, LOOK_UP))
            if not self.clients:
                break
