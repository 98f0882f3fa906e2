"""Whose turn it is in a hub's loop.

It serves everybody: what one peer has it do must not be felt by the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

SHARE = 0.1
"""Part of the loop's time for what peers say or ask beyond what agents do, all users together."""

SLICE = 0.001
"""Seconds of long work until others have their turn."""


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
class _Turnstile:
    """Long work of a loop: one slice of it between two looks at what has come, whoever's it is.

    If each of hundreds of clients had a slice of its own in each round of the loop, a round would
    take as long as all of them.
    """

    loop: asyncio.AbstractEventLoop
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    _working: asyncio.Task[object] | None = None
    """Whose slice it is, and since when."""
    _since: float = 0.0

    async def breathe(self) -> None:
        """Go on, or wait for the next slice."""
        task = asyncio.current_task(self.loop)
        if task is self._working and self.loop.time() - self._since < SLICE:
            return
        turn = self.loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self.loop.call_soon(self._pass)
        await turn
        self._working, self._since = task, self.loop.time()

    def _pass(self) -> None:
        """Let the first one in, and the next one a round later."""
        turn = self._waiting.popleft()
        if not turn.done():  # it may have been cancelled
            turn.set_result(None)
        if self._waiting:
            self.loop.call_soon(self._pass)


_stiles: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Turnstile, _Turnstile]] = (
    WeakKeyDictionary()
)


async def breathe(*, awaited: bool = False) -> None:
    """In a loop over something of which peers may have any number: let others have a turn.

    Before the first one, too. What was true before the call may have changed after it.
    ``awaited``: a program waits for this work. It has a queue of its own, which is served beside
    the other, so that it does not wait for all that is done in the background.
    """
    loop = asyncio.get_running_loop()
    stiles = _stiles.get(loop)
    if stiles is None:
        stiles = _stiles[loop] = _Turnstile(loop), _Turnstile(loop)
    await stiles[awaited].breathe()
