"""The loop of the kernel engine: look at ksmd, decide, set its knobs, watch.

``decide.govern`` makes all decisions. This module collects what they need, and leaves the host as
it was before.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import BinaryIO

import msgspec

from pagemerge.errors import PagemergeError
from pagemerge.find.process import named
from pagemerge.find.sources import locate_marked
from pagemerge.find.survey import survey
from pagemerge.ksmd.borrowing import Loan
from pagemerge.ksmd.decide.course import Course
from pagemerge.ksmd.decide.govern import govern
from pagemerge.ksmd.decide.rules import Rule
from pagemerge.ksmd.enrolment import Enrolment, Kernel
from pagemerge.ksmd.mergeable import Mergeable, asked
from pagemerge.ksmd.merged import sharing_pages
from pagemerge.ksmd.model import HUGE_PRICE, Decision, Goals, Listener, Snapshot
from pagemerge.ksmd.ruling import Opting
from pagemerge.ksmd.sample import Sample
from pagemerge.linux import accounts
from pagemerge.linux.aside import readers
from pagemerge.linux.knobs import STOP, Knobs
from pagemerge.linux.ksm import Ksm
from pagemerge.linux.notify import Notifier
from pagemerge.linux.scheduling import stalled_seconds
from pagemerge.model import PAGE_SIZE

log = logging.getLogger("pagemerge.governor")

REFRESH = 0.5
"""Seconds between two looks at which processes there are."""


PAUSE = 10.0
"""Seconds between two signs of life while the governor pauses."""

PAUSED = "somebody has paused merging"
RESUMED = "somebody has had merging go on"
"""Reasons of the decisions that orders bring."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a trace: what the governor knew, and what it decided."""

    snapshot: Snapshot
    decision: Decision


class Governor:
    """Drives ksmd until it is told to stop.

    ``dry_run``: decide and log, and write nothing. ``trace``: a file that gets a line of JSON (a
    ``Step``) for each decision. ``notifier``: told about the start and each sign of life.
    """

    def __init__(
        self,
        goals: Goals,
        ksm: Ksm,
        *,
        dry_run: bool = False,
        trace: BinaryIO | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self.goals = goals
        self.enrolment: Enrolment | None = None
        """Opts processes in, if the configuration has rules; else None."""
        self.ksm = ksm
        self.dry_run = dry_run
        self.mergeable = Mergeable(asked)
        self.on_hangup: Callable[[], None] = lambda: None
        """Called between two steps after ``hang_up``."""
        self.loan: Loan | None = None
        """Told about each value before it is written."""
        self._ended = threading.Event()
        self._hung_up = False
        self._woken = threading.Event()
        """Ends the pause between two steps."""
        self._paused = self._resumed = False
        self._writing = threading.Lock()
        """Held while knobs are written: ``pause`` is called in another thread."""
        self._listener: Listener = lambda _reason, _knobs: None
        self._notifier = notifier or Notifier()
        self._trace = trace
        self._course = Course()
        self._refreshed = -REFRESH
        self._sample: Sample | None = None
        self._written = Knobs()
        self._told = ""
        self._topics: set[str] = set()
        self._meddled = False

    def follow(
        self, rules: Sequence[Rule], across_users: bool, huge_price: int = HUGE_PRICE
    ) -> None:
        """Opt processes in and out by these rules from now on. Processes that stay in keep their
        merged pages. ``huge_price``: as for ``selecting.select``, where a rule selects."""
        if self.enrolment:
            self.enrolment.follow(rules, across_users)
        elif rules:
            self.enrolment = Enrolment(
                Opting(rules, across_users=across_users),
                lambda: self.mergeable.pids,
                marks=Kernel(across_users),
                dry_run=self.dry_run,
            )
        if self.enrolment:
            self.enrolment.huge_price = huge_price

    def tell(self, listener: Listener) -> None:
        """Have ``listener`` called with the reason and the knobs of each decision that is logged as
        new."""
        self._listener = listener

    def end(self) -> None:
        """Have ``run`` return. For signal handlers, too."""
        self._ended.set()
        self._woken.set()

    def hang_up(self) -> None:
        """Have ``on_hangup`` called between two steps. For signal handlers, too."""
        self._hung_up = True
        self._woken.set()

    def pause(self) -> bool:
        """Stop ksmd, and decide nothing until ``resume``; false if that is so already.

        For any thread. Raises ``PagemergeError`` if ksmd cannot be stopped.
        """
        with self._writing:
            if self._paused:
                return False
            if not self.dry_run:
                self._put({"run": STOP})
            self._paused = True
        log.info("%s", PAUSED)
        self._listener(PAUSED, {"run": STOP})
        return True

    def resume(self) -> bool:
        """Go on after ``pause``; false if it did not pause. For any thread."""
        with self._writing:
            if not self._paused:
                return False
            self._paused, self._resumed = False, True
        log.info("%s", RESUMED)
        self._listener(RESUMED, {})
        self._woken.set()
        return True

    def run(self) -> None:
        """Govern until ``end`` is called."""
        decision, is_ready = Decision(Knobs(), "the beginning", 0.0), False
        with contextlib.suppress(Ended):
            while not self._wait(decision.wait_seconds):
                if self._hung_up:
                    self._hung_up = False
                    self.on_hangup()
                decision = self._next(decision)
                if not is_ready:
                    self._notifier.ready(decision.reason)
                    is_ready = True
                self._notifier.alive()
                self._notifier.status(decision.reason)
        self._notifier.stopping()

    def _next(self, last: Decision) -> Decision:
        if self._paused:
            return Decision(Knobs(), PAUSED, PAUSE)
        if self._resumed:  # it has missed what happened meanwhile, and begins anew
            self._resumed = False
            self._course, self._sample, self._told = Course(), None, ""
        return self.step(last)

    def _wait(self, seconds: float) -> bool:
        """Wait, or less if something is to be done. True if the end has come."""
        self._woken.wait(seconds)
        self._woken.clear()
        return self._ended.is_set()

    def step(self, last: Decision) -> Decision:
        """Take a snapshot with what the decision ``last`` wanted to know, and decide on it."""
        now = self._snapshot(last)
        self._note_meddling(now.knobs)
        self._course, decision = govern(self._course, now, self.goals)
        if self._trace:
            self._trace.write(msgspec.json.encode(Step(now, decision)) + b"\n")
        changes = changed(decision.knobs)
        self._tell(decision, changes)
        if self.dry_run:
            # ksmd does not run for it, so the governor goes on deciding as if ksmd stood still.
            self._course = replace(self._course, working=False, checking=False)
        elif changes:
            self._write(changes)
        return decision

    def _tell(self, decision: Decision, changes: dict[str, int | str]) -> None:
        """Log changes and their reason. If nothing is changed, log the reason once only, until the
        next change."""
        if decision.reason == self._told:
            return
        self._told = decision.reason
        news = set(changes) - {"sleep_millisecs"}  # a latency budget changes it all the time
        if news:
            self._topics.clear()
        new = decision.topic and decision.topic not in self._topics
        self._topics.add(decision.topic)
        written = ", ".join(f"{name}={value}" for name, value in changes.items())
        if written and self.dry_run:
            written = f"would write {written}"
        log.log(
            logging.INFO if news or new else logging.DEBUG,
            "%s%s",
            decision.reason,
            f": {written}" if written else "",
        )
        if news or new:
            self._listener(decision.reason, {} if self.dry_run else changes)

    def _write(self, changes: dict[str, int | str]) -> None:
        """Write knobs. The governor goes on after an error, because another program that drives
        ksmd may be in the way for a moment only."""
        with self._writing:
            if self._paused:
                return
            try:
                self._put(changes)
            except PagemergeError as error:
                log.warning("ksmd is left as it is: %s", error)

    def _put(self, changes: dict[str, int | str]) -> None:
        if self.loan:
            self.loan.announce(changes)
        try:
            self.ksm.write(**changes)
        finally:
            self._written = self.ksm.knobs()

    def _snapshot(self, wanted: Decision) -> Snapshot:
        seconds = time.monotonic()
        if seconds - self._refreshed >= REFRESH:
            self._refreshed = seconds
            if self.enrolment:
                self.mergeable.forget(self.enrolment.refresh())
            self.mergeable.refresh(seconds)
        pids = self.mergeable.pids
        still = moving = promised = sharing = None
        if wanted.sample:
            self._sample = self._sample or Sample(pids)
            change = self._sample.compare()
            still, moving = change.still, change.moving
        looked = 0.0
        if wanted.look:
            began = readers.spent_seconds()
            # Before the look, because pages written during the look would otherwise count as seen.
            self._sample = Sample(pids)
            promised = promise(pids, self._ended, self._notifier.alive)
            sharing = sharing_pages(pids)
            looked = readers.spent_seconds() - began
        counters = self.ksm.counters()
        # ksm_zero_pages is live; pages_sharing is not.
        zeros = counters.ksm_zero_pages or 0
        return Snapshot(
            seconds=seconds,
            knobs=self.ksm.knobs(),
            counters=counters,
            spent_seconds=(self.ksm.ksmd_cpu_seconds() or 0.0) + readers.spent_seconds(),
            processes=len(pids),
            resident_bytes=sum(accounts.anonymous_bytes(pid) for pid in pids),
            available_bytes=accounts.available_bytes(),
            total_bytes=accounts.total_bytes(),
            pressure=accounts.pressure_percent(),
            changed_share=still,
            moving_share=moving,
            promised_bytes=promised,
            merged_bytes=None if sharing is None else (sharing + zeros) * PAGE_SIZE,
            look_seconds=looked,
            stalled_seconds=stalled_seconds() if self.goals.latency_percent else None,
        )

    def _note_meddling(self, found: Knobs) -> None:
        """Warn once that another program writes to the knobs, too."""
        if self._meddled or self._written == Knobs() or found == self._written:
            return
        self._meddled = True
        differ = [
            f"{name} {value} (was {getattr(self._written, name)})"
            for name, value in changed(found).items()
            if value != getattr(self._written, name)
        ]
        log.warning(
            "another program sets ksmd's knobs: %s; `pagemerge doctor` may name it",
            ", ".join(differ),
        )


def changed(knobs: Knobs) -> dict[str, int | str]:
    """Return the knobs that are not None."""
    values = ((it.name, getattr(knobs, it.name)) for it in fields(knobs))
    return {name: value for name, value in values if value is not None}


class Ended(Exception):
    """The governor was told to end while it looked at pages."""


def promise(
    pids: Sequence[int],
    ended: threading.Event | None = None,
    alive: Callable[[], None] = lambda: None,
) -> int:
    """Return the bytes that merging would still save in these processes, by looking at all pages.

    Calls ``alive`` again and again, and raises ``Ended`` soon after ``ended`` is set: a look at a
    terabyte takes minutes.
    """

    def progress(_done: int, _total: int) -> None:
        alive()
        if ended and ended.is_set():
            raise Ended

    found = []
    for pid in pids:
        with contextlib.suppress(PagemergeError):
            found += named([str(pid)])
    # ksmd merges all marked memory; whether users may share was checked before the marking.
    totals = survey(found, 0, progress, together=True, locate=locate_marked).totals
    return totals.saveable_pages * PAGE_SIZE


def endings() -> set[int]:
    """Return the signals that would end this process, and that it can catch to end cleanly
    (signal(7)).

    These are not the signals that it was started to ignore (nohup(1)), and not those that a fault
    of its own raises: going on after such a signal would raise it again.
    """
    kept = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    stops = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
    unheard = {signal.SIGKILL, *kept, *stops, *faults}
    return {
        int(number)
        for number in signal.valid_signals() - unheard
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    }
