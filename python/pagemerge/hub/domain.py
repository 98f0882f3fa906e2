"""The state of a trust domain: its clients, its store, and its pending work.

Only the methods here change what is pending; each method is named after the event that changes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

import numpy as np
import numpy.typing as npt

from pagemerge.hub.client import Client
from pagemerge.hub.patience import Patience
from pagemerge.hub.regions import Region
from pagemerge.hub.store import Store
from pagemerge.linux.domain import Domain

FEW, FEW_OF = 64, 256
"""``FEW`` pending pages, and one more for each ``FEW_OF`` pages of the domain, are too few for a
new plan: each plan goes through the whole domain, and pages that lie close to each other are merged
behind one barrier."""

HURRY = 16
"""How many times fewer pages are enough for a plan while memory is short."""

FEW_SPARE = 4096
"""``pending`` pages are too few even for time to spare unless there is more than one for each
``FEW_SPARE`` pages of the domain: a plan takes about 12 ns for each page of the domain, and a
merged page is worth 50 us (``pace.WORTH``)."""

LOOK_UP = 0.1
"""Seconds of a rest after which a hub checks whether it goes on."""

AGAIN = 64
"""Cycles until the hub tries again to empty slabs that some client did not leave."""


@dataclass(slots=True, eq=False)
class Filling:
    """Slots that the hub is filling."""

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
    scans: int = 0
    """Times that every client was looked at, those that did not answer apart."""
    scan_began: float = 0.0
    """When the last of them was complete (time.monotonic)."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends the pause between two cycles: a client has joined, or has answered late."""
    fillings: list[Filling] = field(default_factory=list)
    """The fillings that are not done yet."""
    born: set[int] = field(default_factory=set)
    """New slabs that current plans may use, though no client maps them yet."""
    stubborn: dict[int, int] = field(default_factory=dict)
    """Slab that the hub has tried to empty -> the cycle from which on it tries again."""
    pending: int = 0
    """Pages that have become worth merging, or whose plan failed, and that have no plan yet."""
    pending_again: int = 0
    """Pages that were merged before, have become worth merging again, and have no plan yet."""
    grown: int = 0
    """Slots that requests have added, and whose merges the clients have not reported yet."""
    short: int = 0
    """Slots that a quota has refused: they are pending again when there is room."""

    is_short: bool = False
    """A memory cgroup of a client is short of memory."""

    def is_worth_a_plan(self, *, hurries: bool) -> bool:
        """Return true if enough pages are pending for a plan. ``hurries``: memory is short."""
        return self.pending > self._few(hurries)

    def is_worth_another(self, *, hurries: bool) -> bool:
        """Return true if enough pages wait to be merged again."""
        return self.pending_again > self._few(hurries)

    @property
    def least(self) -> int:
        """Pages that are too few for a plan, even where the hub has time to spare."""
        return self._pages // FEW_SPARE

    @property
    def _pages(self) -> int:
        return sum(it.claimed[1] for it in self.clients)

    def _few(self, hurries: bool) -> int:
        few = self._pages // FEW_OF
        return FEW + (few // HURRY if hurries else few)

    @property
    def is_over(self) -> bool:
        """True if no client, slab or filling is left. Domains have to end, because clients choose
        their names."""
        return not (self.clients or self.store.slabs or self.fillings)

    def await_plan(self, pages: int) -> None:
        """Count pages that have become worth merging, or whose plan has failed."""
        self.pending += pages

    def await_another(self, pages: int) -> None:
        """Count pages that were merged before, and have become worth merging again."""
        self.pending_again += pages

    def begin_plan(self, *, again: bool) -> None:
        """Note that a plan is made for all pending pages; ``again``: also for those that were
        merged before."""
        self.pending = 0
        if again:
            self.pending_again = 0

    def refuse(self, slots: int) -> None:
        """Count new slots that a quota refuses for now."""
        self.short += slots

    def find_room(self) -> None:
        """Make refused slots pending again, because a store has become smaller."""
        self.pending += self.short
        self.short = 0

    def grow(self, slots: int) -> None:
        """Count slots that a request has added.

        Clients may share them once the merge of the request is reported.
        """
        self.grown += slots

    def share_grown(self) -> None:
        """Make added slots pending, because the merge of a request is reported: other clients may
        have held the same pages for long, and could not share them until now."""
        self.pending += self.grown
        self.grown = 0

    def adopt(self, slab: int) -> None:
        """Keep a new slab for one cycle, though no client maps it yet."""
        self.born.add(slab)

    def outgrow(self, slab: int) -> bool:
        """Return true if the slab was new in the cycle that is over; it is not new any more."""
        is_new = slab in self.born
        self.born.discard(slab)
        return is_new

    def may_empty(self, slab: int) -> bool:
        """Return true if the hub may ask clients to leave a slab."""
        return slab not in self.born and self.stubborn.get(slab, 0) <= self.cycles

    def try_to_empty(self, slabs: Iterable[int], again: int = AGAIN) -> None:
        """Note that clients are asked to leave slabs, and after how many cycles the hub may ask
        again."""
        kept = {it: when for it, when in self.stubborn.items() if it in self.store.slabs}
        self.stubborn = kept | dict.fromkeys(slabs, self.cycles + again)

    @property
    def regions(self) -> list[Region]:
        """The regions of all clients."""
        return [region for it in self.clients for region in it.regions.values()]

    @property
    def came(self) -> int:
        """Pages that looks have found where none was before, of the clients that are here."""
        return sum(it.came for it in self.clients)

    @property
    def merges(self) -> int:
        """Pages that were merged, of the clients that are here; a page counts each time."""
        return sum(it.merges for it in self.clients)

    def end_cycle(self, now: float) -> None:
        """Count a cycle that is over."""
        self.cycles += 1
        self.patience.recover()
        looked = [it.attention.looked for it in self.clients if it.is_ready]
        if looked and min(looked) >= self.scan_began:
            self.scans += 1
            self.scan_began = now

    def due(self, longest: float) -> float:
        """Return when a client is to be looked at next (time.monotonic); infinite if none can be
        looked at. ``longest``: the longest pause."""
        waiting = (it for it in self.clients if it.turn is None and it.is_ready)
        return min((it.attention.due(longest) for it in waiting), default=inf)

    def rouse(self, _: object = None) -> None:
        """End the pause between two cycles. Can be used as a callback."""
        self.wake.set()

    def hurry(self) -> None:
        """Look at all clients at once."""
        for client in self.clients:
            client.attention.hurry()
        self.rouse()

    async def rest(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Rest for ``seconds``. The rest ends soon after the last client has gone, so that the hub
        frees its memory soon, and when ``is_over`` says so."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not is_over():
            await asyncio.sleep(min(left, LOOK_UP))
            if not self.clients:
                break
