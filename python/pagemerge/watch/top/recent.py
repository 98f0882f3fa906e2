"""What the last moments tell together: rates, the series of the chart, the governor's decisions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pagemerge.watch.model import Decision, Moment, Row
from pagemerge.watch.rates import Rates

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


class Recent:
    """The last moment, and what is to be remembered of those before it."""

    def __init__(self, past: Iterable[Moment] = ()) -> None:
        self.points: deque[Point] = deque(maxlen=POINTS)
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS)
        """Oldest first."""
        self._window: deque[tuple[Moment, dict[int, int]]] = deque()
        """The moments that rates are measured from, each with the separations of its pids."""
        for moment in past:
            self.add(moment)

    @property
    def moment(self) -> Moment | None:
        """The last moment."""
        return self._window[-1][0] if self._window else None

    def add(self, moment: Moment) -> None:
        """Take in the next moment."""
        window = self._window
        if window and moment.time < window[-1][0].time:
            window.clear()  # the clock was set back, so no rate can be told
        if window and moment.time == window[-1][0].time:
            window.pop()
        while len(window) > 1 and moment.time - window[0][0].time > WINDOW:
            window.popleft()
        known = {row.pid: row.separations for row in moment.rows if row.separations is not None}
        window.append((moment, known))
        if self.points and self.points[-1].time == moment.time:
            self.points.pop()
        available = moment.host.available_bytes
        used = None if available is None else max(moment.host.total_bytes - available, 0)
        self.points.append(Point(moment.time, used, moment.saved_bytes))
        self.decisions.extend(moment.decisions)

    @property
    def rates(self) -> Rates:
        """What the engines do in a second, over ``WINDOW``."""
        if not self._window:
            return Rates(0.0)
        return Rates.between(self._window[0][0], self._window[-1][0])

    def unsharing(self, row: Row) -> float | None:
        """Return the merged pages of a process that are separated per second, over ``WINDOW``."""
        if row.separations is None or not self._window:
            return None
        now = self._window[-1][0]
        for moment, separations in self._window:
            before = separations.get(row.pid)
            if before is not None and moment is not now:
                # Another process may have got this pid, or its hub may have started anew.
                gone = row.separations - before
                return gone / (now.time - moment.time) if gone >= 0 else None
        return None
