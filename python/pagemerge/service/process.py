"""One engine as a process that the daemon forks, hears, and starts again when it has died.

Engines are forked without exec, so that all processes of the daemon share the memory of the
interpreter and of the modules, which is most of what they have.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pagemerge.errors import PagemergeError
from pagemerge.linux.forked import Forked
from pagemerge.linux.notify import PASSED
from pagemerge.linux.text import plain

log = logging.getLogger("pagemerge.service")

SOON = 0.5
LONGEST = 10.0
"""Seconds before the second start in a row of an engine that dies at once, and at most; the time
doubles with each start."""

STARTING = 180.0
"""Seconds without a sign of life that an engine may take until it is ready. Before it reads any
memory, it is; so it waits for something that does not come."""

STEADY = 0.5
"""Seconds that an engine must have worked for its next start to count as the first again."""


@runtime_checkable
class HasDescriptor(Protocol):
    """A handler of log records with a connection of its own (``cli.logs``)."""

    def fileno(self) -> int:
        """Return its descriptor."""


@dataclass(slots=True)
class EngineProcess:
    """An engine of the daemon. Times are seconds on the monotonic clock."""

    name: str
    """What the log calls it: ``the hub``."""
    comm: str
    """Its name in ps and top: 15 bytes."""
    work: Callable[[], int]
    """What it does, in its own process; returns its exit status."""
    descriptors: Sequence[int] = ()
    """Descriptors of the daemon that it keeps open."""
    mend: Callable[[], None] = lambda: None
    """Called when it has died, before it starts again: puts right what it has left."""
    notify: int = -1
    """The descriptor of the socket to which it tells its states; -1: to none."""
    watchdog_seconds: float | None = None
    """It is killed if it shows no sign of life for so long after its start; None: never."""
    process: Forked | None = None
    """None while it does not run."""
    due: float | None = 0.0
    """When to start it; None while it runs."""
    ready: bool = False
    reloading: bool = False
    """The daemon has asked it to reload, and it has not said that it has finished."""
    hangs_up: bool = False
    """A reload came while it was starting: ask once more when it is ready."""
    status: str = "starts"
    """What it does, in its own words."""
    starts: int = 0
    _heard: float = 0.0
    _since: float = 0.0
    """When it became ready."""
    _delay: float = 0.0

    @property
    def pid(self) -> int:
        """Its pid; 0 while it does not run."""
        return self.process.pid if self.process else 0

    @property
    def deadline(self) -> float | None:
        """When it must have been heard, or must be started; None if nothing is due."""
        if self.process is None:
            return self.due
        return None if self.patience is None else self._heard + self.patience

    @property
    def patience(self) -> float | None:
        """Seconds that it may show no sign of life; None: for ever."""
        return self.watchdog_seconds if self.ready else STARTING

    def start(self, now: float) -> None:
        """Start it. If that is impossible, try again later."""
        self.starts += 1
        self.ready = self.reloading = self.hangs_up = False
        self._heard, self.due = now, None
        kept = {*self.descriptors, *_of_the_log(), *([self.notify] if self.notify >= 0 else [])}
        try:
            self.process = Forked(self._run, self.comm, kept)
        except OSError as error:
            self._put_off(now)
            log.error("%s cannot be started: %s", self.name, error.strerror)

    def _run(self) -> int:
        """In the new process: work."""
        for name in ("WATCHDOG_PID", "WATCHDOG_USEC"):
            os.environ.pop(name, None)
        os.environ["NOTIFY_SOCKET"] = f"{PASSED}{self.notify}" if self.notify >= 0 else ""
        if self.watchdog_seconds is not None:
            os.environ["WATCHDOG_USEC"] = str(round(self.watchdog_seconds * 1e6))
        try:
            return self.work()
        except PagemergeError as error:
            log.error("%s", error)
            return error.exit_status
        except Exception:
            log.exception("%s has a fault", self.name)
            return 1

    def hear(self, message: str, now: float) -> bool:
        """Note what it tells (sd_notify(3)); true if it has just become ready, or has reloaded."""
        self._heard = now
        lines = message.split("\n")
        for line in lines:
            if line.startswith("STATUS="):
                self.status = plain(line.removeprefix("STATUS="), 200)
        if "READY=1" not in lines:
            return False
        if not self.ready:
            self.ready, self._since = True, now
        self.reloading = False
        if self.hangs_up:
            self.hangs_up = False
            self.hang_up()
        return True

    def hang_up(self) -> None:
        """Have it read its configuration again, now or when it has started."""
        if self.process is None:
            return  # it reads the configuration when it starts
        if not self.ready:
            self.hangs_up = True  # SIGHUP would end it before it has a handler
            return
        self.reloading = True
        self.process.send(signal.SIGHUP)

    def ended(self, now: float) -> str | None:
        """Reap it. If it has died, return how, in words for the log, and plan its next start."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        steady = self.ready and now - self._since >= STEADY
        how = f"{self.name} (process {self.pid}) {_ending(code)}"
        self.process = None
        self.ready = self.reloading = False
        self._put_off(now, steady)
        self.status = "is down"
        return how

    def _put_off(self, now: float, steady: bool = False) -> None:
        """Plan the next start: at once after steady work, else later and later."""
        if steady:
            self._delay, self.due = 0.0, now
            return
        self.due = now + self._delay
        self._delay = min(max(2 * self._delay, SOON), LONGEST)


def _ending(code: int) -> str:
    """Say how a process has ended, from its exit status as subprocess has it."""
    if code >= 0:
        return f"has ended with exit status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _of_the_log() -> set[int]:
    """Return the descriptors to which log records go, besides standard error."""
    handlers = logging.getLogger().handlers
    return {it.fileno() for it in handlers if isinstance(it, HasDescriptor)}
