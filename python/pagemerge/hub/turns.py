"""Whose turn it is in a hub's loop.

It serves everybody: what one peer has it do must not be felt by the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

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
    _queues: tuple[deque[asyncio.Future[None]], ...] = field(
        default_factory=lambda: (deque(), deque())
    )
    """Of what is done in the background, and of what a program waits for: by turns."""
    _last: bool = False
    _working: asyncio.Task[object] | None = None
    """Whose slice it is, and since when."""
    _since: float = 0.0

    async def breathe(self, awaited: bool) -> None:
        """Go on, or wait for the next slice."""
        task = asyncio.current_task(self.loop)
        if task is self._working and self.loop.time() - self._since < SLICE:
            return
        turn = self.loop.create_future()
        if not any(self._queues):
            self.loop.call_soon(self._pass)
        self._queues[awaited].append(turn)
        await turn
        self._working, self._since = task, self.loop.time()

    def _pass(self) -> None:
        """Let one in, and the next one a round later."""
        self._last = not self._last if self._queues[not self._last] else self._last
        turn = self._queues[self._last].popleft()
        if not turn.done():  # it may have been cancelled
            turn.set_result(None)
        if any(self._queues):
            self.loop.call_soon(self._pass)


_stiles: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turnstile] = WeakKeyDictionary()


async def breathe(*, awaited: bool = False) -> None:
    """In a loop over something of which peers may have any number: let others have a turn.

    Before the first one, too. What was true before the call may have changed after it.
    ``awaited``: a program waits for this work, which does not wait for all that is done in the
    background.
    """
    loop = asyncio.get_running_loop()
    if loop not in _stiles:
        _stiles[loop] = _Turnstile(loop)
    await _stiles[loop].breathe(awaited)


async def work_in(executor: Executor, work: Callable[[], T], seconds: float) -> Future[T]:
    """Have a thread do some work, and wait for it, but no longer than so many seconds.

    Returns the future, which need not be done. What a request waits for is counted in rounds of
    the loop, and a busy one's take milliseconds: this is one round less than run_in_executor and
    asyncio.wait take. Raises ``RuntimeError`` if no thread can be started.
    """
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def end() -> None:
        if not over.done():
            over.set_result(None)

    def tell(_: Future[T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(end)

    future = executor.submit(work)
    future.add_done_callback(tell)
    timer = loop.call_later(seconds, end)
    try:
        await over
    finally:
        timer.cancel()
    return future
