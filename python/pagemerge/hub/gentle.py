"""The latency budget of a domain: background work in small slices, with rests between them.

A program that waits for the hub (a request, a greeting) waits for no slice and no rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from math import inf

from pagemerge.hub.decide import gentle, pace
from pagemerge.linux.scheduling import stalled_seconds

LOOK = 4
"""The most blocks of a look under a budget: 8 MiB, about 1 ms of reading."""

LONGEST_BLOCK = 0.001
"""The most seconds that the kernel may take to make a block of a slab a huge page: most kernels let
nobody else have the processor meanwhile. It takes 5 ms if a virtual machine gets the memory from
its host first, and 0.2 ms otherwise."""

SMALL = 16
"""Slabs without huge pages after one block that took longer, or could not be made."""


class Gentle:
    """Lets one slice of background work run at a time, and rests after it as the others need."""

    def __init__(self, share: float) -> None:
        """``share``: the part of the time, 0 to 1, in which others may wait for a processor while
        the domain is at work; 0: no budget, and everything runs at once."""
        self.share = share
        self.pages = 8 * gentle.FEWEST
        """The most pages of the next request to a client."""
        self._turn = asyncio.Lock()
        self._small = 0
        """Slabs that are to come without huge pages."""

    @property
    def most_blocks(self) -> int:
        """The most blocks of one look."""
        return LOOK if self.share else pace.MOST_AT_ONCE

    @property
    def longest_block(self) -> float:
        """The most seconds for one block of a slab; the others stay small after one that took
        longer."""
        return LONGEST_BLOCK if self.share else inf

    def blocks(self, wanted: int) -> int:
        """Return how many blocks of the next slab are to be huge pages, of ``wanted``."""
        if not wanted or not self._small or not self.share:
            return wanted
        self._small -= 1
        return 0

    def note_blocks(self, wanted: int, made: int) -> None:
        """Note that ``made`` of ``wanted`` blocks of a slab have become huge pages."""
        if made < wanted:
            self._small = SMALL

    @contextlib.asynccontextmanager
    async def slice(self, *, elsewhere: bool = False) -> AsyncIterator[None]:
        """Hold the only turn while a slice of work runs, and rest afterwards.

        ``elsewhere``: a client does the work, and the hub waits for it. The hub does not know how
        long the client's agent has had a processor, so all this time counts.
        """
        share = self.share
        if not share:
            yield
            return
        async with self._turn:
            began, worked, before = time.monotonic(), time.process_time(), stalled_seconds()
            try:
                yield
            finally:
                took, after = time.monotonic() - began, stalled_seconds()
                worked = took if elsewhere else time.process_time() - worked
                # Without PSI nobody can tell whether others wait: assume that they do.
                stalled = worked if before is None or after is None else after - before
                await asyncio.sleep(gentle.rest(took, min(stalled, worked), share))

    def note_answer(self, asked: int, seconds: float) -> None:
        """Note that a client has carried out a request of ``asked`` pages in ``seconds``."""
        self.pages = gentle.lot(self.pages, asked, seconds)
