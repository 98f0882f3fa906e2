"""Runs what shows the daemon's work: the API, the history and the metrics, in a process apart from
the engines, so that those who look cannot disturb the merging."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux.ksm import Ksm
from pagemerge.linux.notify import Notifier, notifier
from pagemerge.service.api.control import KernelControl
from pagemerge.service.api.moments import in_thread
from pagemerge.service.api.server import serve
from pagemerge.service.orders import MOST_WAITING, Line
from pagemerge.service.serve import raise_descriptors
from pagemerge.service.settings import ServiceSettings
from pagemerge.watch.collect import Collector
from pagemerge.watch.endpoint import Address, Endpoint
from pagemerge.watch.history import History, decided
from pagemerge.watch.history_file import default_path
from pagemerge.watch.model import Decision, Moment

log = logging.getLogger("pagemerge.watch")

EVERY = 10.0
"""Seconds between two moments of the history."""
BEAT = 10.0
"""The most seconds between two signs of life."""
AFTER = 10
"""Niceness: merging comes before those who look (sched(7))."""


class Figures:
    """Reads the figures of now for several readers, in whichever thread they ask; each of them gets
    all decisions."""

    def __init__(self, hub: Path | None, line: Line | None, ksm: Ksm) -> None:
        self._collector = Collector(hub, line.decisions if line else tuple, ksm)
        self._lock = threading.Lock()
        self._waiting: list[deque[Decision]] = []

    def reader(self) -> Callable[[], Moment]:
        """Return a function that reads the figures, with the decisions since its last call."""
        mine: deque[Decision] = deque(maxlen=MOST_WAITING)
        self._waiting.append(mine)

        def read() -> Moment:
            import msgspec

            with self._lock:
                moment = self._collector.moment()
                for one in self._waiting:
                    one.extend(moment.decisions)
                decisions = tuple(mine)
                mine.clear()
            return msgspec.structs.replace(moment, decisions=decisions)

        return read


class GovernorControl(KernelControl):
    """Pauses the governor of this daemon instead of ksmd, which the governor would start again."""

    def __init__(self, line: Line, ksm: Ksm) -> None:
        super().__init__(ksm)
        self._line = line

    async def pause(self) -> bool:
        """Have the governor stop ksmd, and decide nothing more."""
        return await in_thread(lambda: self._line.order("pause"))

    async def resume(self) -> bool:
        """Have the governor go on."""
        return await in_thread(lambda: self._line.order("resume"))


def watch(
    settings: ServiceSettings, hub: Path, api: Path, channel: socket.socket | None, ksm: Ksm
) -> int:
    """Show what the daemon does until SIGTERM or SIGINT.

    ``hub``: where the hub listens. ``api``: where to listen for callers. ``channel``: to the
    governor, if one runs. Raises ``PagemergeError`` if the API cannot listen.
    """
    raise_descriptors()  # each caller takes one
    os.nice(AFTER)
    asyncio.run(_watch(settings, hub, api, Line(channel) if channel else None, ksm))
    return 0


async def _watch(
    settings: ServiceSettings, hub: Path, api: Path, line: Line | None, ksm: Ksm
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if line:
        asyncio.get_running_loop().add_reader(line, line.take_in)
    states, figures = notifier(), Figures(hub, line, ksm)
    # It reads nothing again: [service] cannot change while the daemon runs.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, states.ready)
    does: list[str] = []
    work: list[Awaitable[None]] = [_beat(states, does)]
    path = default_path() if settings.history else None
    with ExitStack() as stack:
        if path and (history := _opened(path)):
            stack.enter_context(history)
            work.append(_record(history, figures.reader()))
            does.append(f"records in {path}")
        tried = asyncio.Event()
        if settings.metrics:
            work.append(_metrics(settings.metrics, figures, path, does, tried.set))
        else:
            tried.set()
        listening = asyncio.Event()
        if settings.api:
            control = GovernorControl(line, ksm) if line else KernelControl(ksm)
            remembered = _remembered(path) if path else None
            work.append(serve(api, figures.reader(), control, remembered, listening.set))
            does.append(f"answers calls at {api}")
        else:
            listening.set()
        tasks = [asyncio.ensure_future(it) for it in work]
        ends = [asyncio.ensure_future(stop.wait()), *tasks]
        ready = asyncio.ensure_future(_all(listening, tried))
        await asyncio.wait([ready, *ends], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            states.ready(_summary(does))
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        states.stopping()
        for task in [ready, *ends]:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


async def _beat(states: Notifier, does: Sequence[str]) -> None:
    """Tell the daemon again and again that the loop turns."""
    while True:
        states.alive()
        states.status(_summary(does))
        await asyncio.sleep(min(states.beat_seconds or BEAT, BEAT))


def _summary(does: Sequence[str]) -> str:
    return ", ".join(does) or "does nothing: its history cannot be written"


def _opened(path: Path) -> History | None:
    """Open the history. Merging does not depend on it, so an error is only logged."""
    try:
        return History(path, clock=time.monotonic)
    except PagemergeError as error:
        log.warning("no history is recorded: %s", error)
        return None


async def _record(history: History, figures: Callable[[], Moment]) -> None:
    """Record the figures again and again; log an error when it is a new one."""
    last = ""
    while True:
        try:
            await in_thread(lambda: history.add(figures()))
            if last:
                log.info("the history goes on")
            last = ""
        except PagemergeError as error:
            if str(error) != last:
                last = str(error)
                log.warning("the history misses a moment: %s", error)
        await asyncio.sleep(EVERY)


def _remembered(path: Path) -> Callable[[float, int], Sequence[Moment]]:
    """Return a function that reads the latest moments of the history; for any thread."""

    def read(since: float, most: int) -> Sequence[Moment]:
        with History(path, read_only=True) as history:
            # Times come from an index; a moment takes a thousand times as long to read.
            last = [when for when, _ in history.series(since)][-most:]
            return deque(history.read(last[0]), maxlen=most) if last else ()

    return read


async def _metrics(
    address: str, figures: Figures, path: Path | None, does: list[str], tried: Callable[[], None]
) -> None:
    """Serve metrics. Another program may have taken the port: that is logged once, and tried again,
    because nothing else depends on it."""
    from pagemerge.watch.metrics import CONTENT_TYPE, Exporter

    exporter = Exporter(figures.reader(), lambda: decided(path) if path else {})
    last = ""
    while True:
        try:
            endpoint = Endpoint(exporter.text, CONTENT_TYPE)
            async with endpoint.serving(Address.parse(address)) as where:
                does.append(f"serves metrics at {where}")
                tried()
                await asyncio.Event().wait()
        except PagemergeError as error:
            tried()
            if str(error) != last:
                last = str(error)
                log.error("no metrics are served: %s", error)
        await asyncio.sleep(EVERY)


async def _all(*events: asyncio.Event) -> None:
    for event in events:
        await event.wait()
