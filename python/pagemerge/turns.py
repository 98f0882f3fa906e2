"""Whose turn it is in a hub's loop, where peers ask for more than agents do."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from pagemerge import report

if TYPE_CHECKING:
    from pagemerge.hub import Hub

SHARE = 0.1
"""Part of the loop's time for such work, of all users together."""


@dataclass(slots=True)
class Turns:
    """Of one user, for one kind of work."""

    _free: float = 0.0
    """When the next one comes (time.monotonic)."""

    @property
    def wait(self) -> float:
        """Seconds until the next one comes."""
        return max(self._free - time.monotonic(), 0.0)

    def spend(self, seconds: float, users: int) -> None:
        """So long it has taken. Each of ``users`` gets an equal part of ``SHARE``."""
        self._free = max(self._free, time.monotonic()) + seconds * max(users, 1) / SHARE


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

    async def answer(self, hub: Hub, uid: int, users: int) -> bytes:
        """The counters (``model.Status`` as JSON), as they are at some moment after this call.

        ``users``: how many share the loop.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._work(hub, uid, users))
        return await asyncio.shield(self._next)  # others wait for it, too

    async def _work(self, hub: Hub, uid: int, users: int) -> bytes:
        async with self._working:
            await asyncio.sleep(self.turns.wait)
            self._next = None
            steps, spent = report.status(hub, uid), 0.0
            try:
                while True:
                    began = time.monotonic()
                    try:
                        next(steps)
                    except StopIteration as end:
                        return msgspec.json.encode(end.value)
                    finally:
                        spent += time.monotonic() - began
                    await asyncio.sleep(0)
            finally:
                self.turns.spend(spent, users)
