"""Who asks a hub for its counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import msgspec

from pagemerge.hub.model import Status
from pagemerge.hub.turns import Turns, breathe

Count = Callable[[], Generator[None, None, Status]]
"""Begins to work out the counters, in steps of a millisecond or so."""


@dataclass(slots=True)
class Viewers:
    """Those of one user who ask for the counters.

    What several ask at a time is worked out once, and one answer after the other: so it does not
    matter how many ask, and what an answer has cost is known before the next one is begun.
    """

    turns: Turns = field(default_factory=Turns)
    _next: asyncio.Task[bytes] | None = None
    """The answer that has not been begun yet."""
    _working: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, count: Count, users: int) -> bytes:
        """The counters (``Status`` as JSON), as they are at some moment after this call.

        ``users``: how many share the loop.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._work(count, users))
        return await asyncio.shield(self._next)  # others wait for it, too

    async def _work(self, count: Count, users: int) -> bytes:
        async with self._working:
            await asyncio.sleep(self.turns.wait)
            self._next = None
            steps, spent = count(), 0.0
            try:
                while True:
                    began = time.monotonic()
                    try:
                        next(steps)
                    except StopIteration as end:
                        return msgspec.json.encode(end.value)
                    finally:
                        spent += time.monotonic() - began
                    await breathe()
            finally:
                self.turns.spend(spent, users)
