"""Sums up moments: what was saved, how much unshared, what it cost, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass, field

from pagemerge.watch.model import Decision, Moment
from pagemerge.watch.rates import Rates
from pagemerge.watch.topics import topic_of

LONGEST_GAP = 1800.0
"""Seconds between two moments from which on no daemon recorded; older ones lie 600 s apart."""


@dataclass(slots=True)
class Summary:
    """What moments say together; ``add`` takes them oldest first."""

    moments: int = 0
    first: Moment | None = None
    last: Moment | None = None
    highest: tuple[int, float] = (0, 0.0)
    """The largest saving in bytes, and its time."""
    lowest: tuple[int, float] = (0, 0.0)
    seconds: float = 0.0
    """Time that the moments cover, without gaps."""
    separations: float = 0.0
    """Merged pages that were written."""
    cpu_seconds: float = 0.0
    """Processor time of the hub and of ksmd."""
    topics: dict[str, int] = field(default_factory=dict)
    """Decisions by topic."""
    last_decision: Decision | None = None
    _byte_seconds: float = 0.0

    @property
    def mean_bytes(self) -> float:
        """The saving, over the time for which it was so."""
        if self.seconds:
            return self._byte_seconds / self.seconds
        return float(self.last.saved_bytes) if self.last else 0.0

    @property
    def decisions(self) -> int:
        """Number of decisions."""
        return sum(self.topics.values())

    def add(self, moment: Moment) -> None:
        """Add the next moment."""
        saved = moment.saved_bytes, moment.time
        if self.last is None:
            self.first, self.highest, self.lowest = moment, saved, saved
        else:
            self._between(self.last, moment)
        self.highest = max(self.highest, saved, key=lambda it: it[0])
        self.lowest = min(self.lowest, saved, key=lambda it: it[0])
        for decision in moment.decisions:
            topic = topic_of(decision.reason)
            self.topics[topic] = self.topics.get(topic, 0) + 1
            self.last_decision = decision
        self.moments += 1
        self.last = moment

    def _between(self, before: Moment, now: Moment) -> None:
        rates = Rates.between(before, now)
        if not 0 < rates.seconds <= LONGEST_GAP:
            return
        self.seconds += rates.seconds
        self._byte_seconds += rates.seconds * (before.saved_bytes + now.saved_bytes) / 2
        written = (rates.user_separations or 0.0) + (rates.kernel_separations or 0.0)
        self.separations += written * rates.seconds
        self.cpu_seconds += (
            (rates.user_cores or 0.0) + (rates.kernel_cores or 0.0)
        ) * rates.seconds


@dataclass(slots=True)
class Slice:
    """The moments of one stretch of time, for a line of a table or a column of a chart."""

    start: float
    summary: Summary = field(default_factory=Summary)


class Slices:
    """Divides a range of time in equal slices, and sums up each of them."""

    def __init__(self, since: float, until: float, count: int) -> None:
        """From ``since`` to ``until``, Unix time in seconds."""
        self._since, self._every = since, max((until - since) / count, 1e-6)
        self._last: Moment | None = None
        self.all = [Slice(since + at * self._every) for at in range(count)]

    def add(self, moment: Moment) -> None:
        """Add the next moment to its slice; what happened since the last one belongs there, too."""
        at = int((moment.time - self._since) / self._every)
        into = self.all[min(max(at, 0), len(self.all) - 1)].summary
        if into.last is None and self._last is not None:
            into._between(self._last, moment)
        into.add(moment)
        self._last = moment
