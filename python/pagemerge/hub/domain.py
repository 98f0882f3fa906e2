"""A trust domain at work, and the processor time that all domains share."""

from __future__ import annotations

import asyncio
import time
from dataclasses import InitVar, dataclass, field

from pagemerge.hub.client import Client
from pagemerge.hub.decide import pace
from pagemerge.hub.decide.trust import Domain
from pagemerge.hub.filler import Filler
from pagemerge.hub.patience import Patience
from pagemerge.hub.quota import Quota
from pagemerge.hub.store import Store

LATER = 0.01
"""Seconds that a greeting waits while the budget is overdrawn. Whoever has hung up by then, as
those do that come and go all the time, costs no more."""

MOST_SPARE = 1.0
"""Processor seconds that may be saved up for work that yields little, and are there at the start:
so a hub that has little to do does it at once."""

FEW, FEW_OF = 64, 256
"""So many pages, and one for each so many of the domain, are no reason to plan anew: each plan goes
through the whole domain, and those that lie close to each other are merged behind one barrier."""

LOOK_UP = 0.5
"""Seconds of a rest after which a hub looks whether anybody is left."""


class Budget:
    """The processor time that the loops of all domains together may take."""

    def __init__(self, share: float, idle_share: float) -> None:
        self._idle_share, self._spare = idle_share, MOST_SPARE
        self._share, self._owed = share, 0.0
        self._worked, self._seen = time.process_time(), time.monotonic()

    @property
    def is_overdrawn(self) -> bool:
        """Is there work to rest for? Then whoever comes waits for a moment (``LATER``)."""
        return self._owed > 0

    @property
    def has_spare(self) -> bool:
        """May work be done that yields little?"""
        return self._spare > 0

    def rest(self, is_spare: bool) -> float:
        """Seconds to rest for all work since the last time, what clients asked for too.

        ``is_spare``: it was not worth it by what it yielded.
        """
        worked, now = time.process_time(), time.monotonic()
        spent, passed = worked - self._worked, now - self._seen
        self._worked, self._seen = worked, now
        self._spare = min(self._spare + self._idle_share * passed, MOST_SPARE)
        if is_spare:
            self._spare -= spent
        # What a time without work would have allowed is not saved up.
        self._owed = pace.rest(self._owed + spent, passed, self._share) * self._share
        return self._owed / self._share


@dataclass(slots=True, eq=False)
class Members:
    """A trust domain at work: its clients and its store. Nothing of it reaches another."""

    domain: Domain
    store: Store = field(default_factory=Store)
    clients: list[Client] = field(default_factory=list)
    quota: InitVar[Quota | None] = None
    filler: Filler = field(init=False)
    patience: Patience = field(default_factory=Patience)
    cycles: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody new has come, or has answered late: the pause between cycles ends."""
    born: set[int] = field(default_factory=set)
    """Slabs that plans under way may use, though nobody maps them yet."""
    stubborn: dict[int, int] = field(default_factory=dict)
    """Slabs that were to be emptied -> the cycle from which on that is tried again."""
    pending: int = 0
    """Pages for which no plan has been made since they became worth it, or whose plan failed."""
    grown: int = 0
    """Slots that requests have added which are not reported yet."""
    short: int = 0
    """Slots that a quota has kept from being made: they are pending when there is room."""

    def __post_init__(self, quota: Quota | None) -> None:
        self.filler = Filler(quota)

    @property
    def is_worth_a_plan(self) -> bool:
        """Are many pages pending?"""
        return self.pending > FEW + sum(it.claimed[1] for it in self.clients) // FEW_OF

    def rouse(self, _: object = None) -> None:
        """Something has happened: the pause between two cycles ends. Fit to be a callback."""
        self.wake.set()

    async def rest(self, seconds: float) -> None:
        """Rest for what was worked; where nobody is left, not for long: what they leave is let go
        of soon."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, LOOK_UP))
            if not self.clients:
                break

    @property
    def is_over(self) -> bool:
        """Is nobody left, and nothing under way? Clients choose names: domains must end, too."""
        return not (self.clients or self.store.slabs or self.filler.under_way)
