"""Decides whose turn it is in a hub's loop.

The loop serves all peers: the work of one peer must not slow down the others.
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
"""Part of the loop's time, 0 to 1, for frames and questions of peers beyond what agents need; all
users together."""

FEW = 64
"""Regions that the hub handles before it lets others have a turn: most clients have no more."""

SLICE = 0.001
"""Seconds of long work after which others have their turn."""


@dataclass(slots=True)
class Turns:
    """The turns of one user, for one kind of work."""

    _free: float = 0.0
    """When the next turn begins (time.monotonic)."""

    @property
    def wait(self) -> float:
        """Seconds until the next turn begins."""
        return max(self._free - time.monotonic(), 0.0)

    def spend(self, seconds: float, users: int) -> None:
        """Note the seconds that a turn took. Each of ``users`` gets an equal part of ``SHARE``."""
        self._free = max(self._free, time.monotonic()) + seconds * max(users, 1) / SHARE


@dataclass(slots=True)
class _Turnstile:
    """Long work of a loop: one slice in each round of the loop, for one task at a time.

    If each of hundreds of clients had a slice of its own in each round of the loop, a round would
    take as long as all these slices together.
    """

    loop: asyncio.AbstractEventLoop
    _queues: tuple[deque[asyncio.Future[None]], ...] = field(
        default_factory=lambda: (deque(), deque())
    )
    """Tasks that work in the background, and tasks that a program waits for; they alternate."""
    _last: bool = False
    _working: asyncio.Task[object] | None = None
    """The task that has the slice, and since when."""
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
        """Give one task a slice, and the next task a slice one round later."""
        self._last = not self._last if self._queues[not self._last] else self._last
        turn = self._queues[self._last].popleft()
        if not turn.done():  # it may have been cancelled
            turn.set_result(None)
        if any(self._queues):
            self.loop.call_soon(self._pass)


_stiles: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turnstile] = WeakKeyDictionary()


async def breathe(*, awaited: bool = False) -> None:
    """Let others have a turn. Call it in each round of a loop whose length peers can choose.

    Call it before the first round, too. What was true before the call may be false after it.
    ``awaited``: a program waits for this work, so it does not queue behind all background work.
    """
    loop = asyncio.get_running_loop()
    if loop not in _stiles:
        _stiles[loop] = _Turnstile(loop)
    await _stiles[loop].breathe(awaited)


async def work_in(executor: Executor, work: Callable[[], T], seconds: float) -> Future[T]:
    """Have a thread do some work, and wait for it for at most ``seconds``.

    Returns the future, which may not be done yet. A request waits for several rounds of the loop,
    and the rounds of a busy loop take milliseconds: this function needs one round less than
    run_in_executor and asyncio.wait. Raises ``RuntimeError`` if no thread can be started.
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
