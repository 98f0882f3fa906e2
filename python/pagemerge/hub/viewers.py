"""Serves the counters of a hub to the viewers that ask for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import msgspec

from pagemerge.hub.model import Status
from pagemerge.hub.turns import Turns, breathe

Count = Callable[[], Generator[None, None, Status]]
"""Begins to work out the counters, in steps of about a millisecond."""


@dataclass(slots=True)
class Viewers:
    """The viewers of one user.

    Viewers that ask at the same time get the same answer, and the hub works out one answer after
    the other. So the cost does not depend on the number of viewers, and the hub knows what an
    answer has cost before it begins the next one.
    """

    turns: Turns = field(default_factory=Turns)
    _next: asyncio.Task[bytes] | None = None
    """The answer that the hub has not begun yet."""
    _working: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, count: Count, users: int) -> bytes:
        """Return the counters (``Status`` as JSON), as they are at some moment after this call.

        ``users``: the number of users that share the loop.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._work(count, users))
        return await asyncio.shield(self._next)  # other viewers wait for it, too

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
