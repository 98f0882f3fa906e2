"""What the last moments tell together: rates, the series of the chart, the governor's decisions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pagemerge.watch.model import Decision, Moment, Row

WINDOW = 10.0
"""Seconds over which a rate is measured. The hub counts at each of its looks only, so that a rate
between two moments would be zero most of the time, and large once in a while."""

POINTS, DECISIONS = 4096, 100
"""Most points of the chart, and most decisions, that are kept."""


@dataclass(frozen=True, slots=True)
class Point:
    """One column of the chart."""

    time: float
    """Unix time in seconds."""
    used_bytes: int | None
    """Memory of the host that is not available; None if the host does not tell."""
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class _Mark:
    """Counters of a moment that rates are measured from."""

    time: float
    hub: tuple[int, float] | None
    """Pid of the hub, because another hub counts anew, and its processor time in seconds."""
    ksmd_seconds: float | None
    kernel_separations: int | None
    separations: dict[int, int]
    """Pid -> merged pages that were separated."""


class Recent:
    """The last moment, and what is to be remembered of those before it."""

    def __init__(self, past: Iterable[Moment] = ()) -> None:
        self.moment: Moment | None = None
        self.points: deque[Point] = deque(maxlen=POINTS)
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS)
        """Oldest first."""
        self._marks: deque[_Mark] = deque()
        for moment in past:
            self.add(moment)

    def add(self, moment: Moment) -> None:
        """Take in the next moment."""
        if self._marks and moment.time < self._marks[-1].time:
            self._marks.clear()  # the clock was set back, so no rate can be told
        if self._marks and moment.time == self._marks[-1].time:
            self._marks.pop()
        while self._marks and moment.time - self._marks[0].time > WINDOW and len(self._marks) > 1:
            self._marks.popleft()
        self._marks.append(_mark(moment))
        available = moment.host.available_bytes
        used = None if available is None else max(moment.host.total_bytes - available, 0)
        self.points.append(Point(moment.time, used, moment.saved_bytes))
        self.decisions.extend(moment.decisions)
        self.moment = moment

    def unsharing(self, row: Row) -> float | None:
        """Return the merged pages of a process that are separated per second, over ``WINDOW``."""
        if row.separations is None or not self._marks:
            return None
        now = self._marks[-1]
        for mark in self._marks:
            before = mark.separations.get(row.pid)
            if before is not None and mark is not now:
                # Another process may have got this pid, or its hub may have started anew.
                gone = row.separations - before
                return gone / (now.time - mark.time) if gone >= 0 else None
        return None

    @property
    def hub_share(self) -> float | None:
        """Processor time of the hub as a part of one core, now."""
        first, last = self._ends()
        if first is None or last is None or not first.hub or not last.hub:
            return None
        if first.hub[0] != last.hub[0]:
            return None
        return _rate(first.hub[1], last.hub[1], last.time - first.time)

    @property
    def ksmd_share(self) -> float | None:
        """Processor time of ksmd as a part of one core, now."""
        first, last = self._ends()
        if first is None or last is None:
            return None
        return _rate(first.ksmd_seconds, last.ksmd_seconds, last.time - first.time)

    @property
    def kernel_unsharing(self) -> float | None:
        """Pages of kernel KSM that are copied per second because a process writes to them."""
        first, last = self._ends()
        if first is None or last is None:
            return None
        return _rate(first.kernel_separations, last.kernel_separations, last.time - first.time)

    def _ends(self) -> tuple[_Mark | None, _Mark | None]:
        """The first and the last mark of the window; None if there is one moment only."""
        return (self._marks[0], self._marks[-1]) if len(self._marks) > 1 else (None, None)


def _mark(moment: Moment) -> _Mark:
    user, kernel = moment.user, moment.kernel
    return _Mark(
        time=moment.time,
        hub=None if user is None else (user.hub_pid, user.cpu_seconds),
        ksmd_seconds=None if kernel is None else kernel.cpu_seconds,
        kernel_separations=None if kernel is None else kernel.separations,
        separations={
            row.pid: row.separations for row in moment.rows if row.separations is not None
        },
    )


def _rate(before: float | None, now: float | None, seconds: float) -> float | None:
    if before is None or now is None or now < before:
        return None
    return (now - before) / seconds
