"""Reads moments for all callers together, and shows each caller what it may see.

Callers that ask at the same time get the same moment, so the cost of reading does not depend on
how many there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from pagemerge.errors import PagemergeError
from pagemerge.linux.fault import told
from pagemerge.linux.threads import start
from pagemerge.service.api.wire import encoded
from pagemerge.watch.model import Decision, Moment, Row

log = logging.getLogger("pagemerge.api")

T = TypeVar("T")

FRESH = 0.25
"""Seconds for which a moment is good enough for the next caller."""
PATIENCE = 15.0
"""Seconds that a caller waits for a moment."""
KEPT = 256
"""Decisions that are remembered."""
RECENT = 10
"""Decisions that the first moment of a caller shows."""


class Seen:
    """A moment, and the decisions up to it."""

    def __init__(self, moment: Moment, decisions: tuple[Decision, ...], number: int) -> None:
        self.moment = moment
        self.decisions = decisions
        """The last ``KEPT``, oldest first."""
        self.number = number
        """How many decisions there were so far, forgotten ones included."""
        self._encoded: dict[tuple[object, ...], bytes] = {}

    def reply(self, uid: int | None, since: int | None = None) -> bytes:
        """Encode what a user may see as the parameters of a reply; None: all.

        ``since``: the number of decisions that the caller has seen; None: show ``RECENT``.
        """
        count = RECENT if since is None else min(self.number - since, KEPT)
        key = uid, count
        if key not in self._encoded:
            shown = self.decisions[-count:] if count and uid is None else ()
            moment = msgspec.structs.replace(visible(self.moment, uid), decisions=textual(shown))
            self._encoded[key] = encoded({"moment": moment})
        return self._encoded[key]

    def rows(self, uid: int | None, wanted: Callable[[Row], bool], key: object) -> bytes:
        """Encode the wanted rows that a user may see; ``key`` identifies ``wanted``."""
        if (uid, "rows", key) not in self._encoded:
            found = [it for it in own(self.moment.rows, uid) if wanted(it)]
            self._encoded[uid, "rows", key] = encoded({"rows": found})
        return self._encoded[uid, "rows", key]


def visible(moment: Moment, uid: int | None) -> Moment:
    """Return what a user may see of a moment: the totals, and its own rows; None: all."""
    if uid is None:
        return moment
    return msgspec.structs.replace(moment, rows=own(moment.rows, uid), decisions=())


def own(rows: tuple[Row, ...], uid: int | None) -> tuple[Row, ...]:
    """Return the rows of a user's processes; None: all."""
    return rows if uid is None else tuple(it for it in rows if it.uid == uid)


def textual(decisions: tuple[Decision, ...]) -> tuple[Decision, ...]:
    """Write the values of knobs as text: varlink has no type for "a number or a text"."""
    return tuple(
        msgspec.structs.replace(it, knobs={name: str(value) for name, value in it.knobs.items()})
        for it in decisions
    )


class Moments:
    """Calls ``source`` in a thread, one call at a time, and at most once in ``FRESH`` seconds."""

    def __init__(self, source: Callable[[], Moment]) -> None:
        self._source = source
        self._seen: Seen | None = None
        self._at = 0.0
        self._reading: asyncio.Task[Seen] | None = None
        self._decisions: deque[Decision] = deque(maxlen=KEPT)
        self._number = 0

    async def now(self) -> Seen:
        """Return the figures of now. Raises ``PagemergeError`` if they cannot be read in time."""
        loop = asyncio.get_running_loop()
        if self._seen is not None and loop.time() - self._at < FRESH:
            return self._seen
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(_retrieved)
        return await in_time(asyncio.shield(self._reading), "the figures cannot be read")

    async def _read(self) -> Seen:
        began = asyncio.get_running_loop().time()
        moment = await in_thread(self._source)
        self._decisions.extend(moment.decisions)
        self._number += len(moment.decisions)
        self._seen = Seen(moment, tuple(self._decisions), self._number)
        self._at = began
        return self._seen


async def in_time(work: asyncio.Future[T], what: str) -> T:
    """Wait ``PATIENCE`` seconds for some work. Raises ``PagemergeError`` that says ``what``."""
    try:
        return await asyncio.wait_for(work, PATIENCE)
    except TimeoutError:
        raise PagemergeError(
            f"{what}: that takes longer than {PATIENCE:g} s now; try later"
        ) from None


def in_thread(work: Callable[[], T]) -> Coroutine[Any, Any, T]:
    """Do some work in a thread of its own, which does not keep the process from ending.

    The threads of an executor do, and a read of /proc may wait for ever. Raises what the work
    raises, and ``PagemergeError`` if no thread can be started.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: Exception | None) -> None:
        if over.done():
            return
        if error is not None:
            over.set_exception(error)
        else:
            over.set_result(value)  # type: ignore[arg-type]  # None only if T has it

    def run() -> None:
        value, failed = None, None
        try:
            value = work()
        except Exception as error:
            failed = error
        try:
            loop.call_soon_threadsafe(settle, value, failed)
        except RuntimeError:
            log.debug("the loop has ended before its work")

    async def awaited() -> T:
        start(run, "api-work")
        return await over

    return awaited()


def _retrieved(task: asyncio.Task[Seen]) -> None:
    """Log the error of a reading: its callers may have stopped to wait for it."""
    if not task.cancelled() and (error := task.exception()):
        log.warning("the figures cannot be read: %s", told(error))
