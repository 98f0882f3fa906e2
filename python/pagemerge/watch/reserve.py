"""Tells whether enough memory would be left if merged pages were written.

A write to a merged page takes a page of memory that merging had saved. Two cases are looked at: the
*burst* (pages unshare for a while as fast as was ever observed), and the worst case (all pages
unshare at once).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from pagemerge.model import PAGE_SIZE
from pagemerge.watch.model import Moment
from pagemerge.watch.rates import Rates

WINDOW = 60.0
"""Seconds over which a rate of unsharing is taken: a burst that is shorter matters less."""

REACTION = 300.0
"""Seconds for which a burst is expected to last, before somebody or something reacts."""

REMEMBERED = 24 * 3600.0
"""Seconds for which the fastest unsharing is remembered."""

State = Literal["OK", "WARNING", "CRITICAL", "UNKNOWN"]


@dataclass(frozen=True, slots=True)
class Reserve:
    """What is left in each case, in bytes; negative if memory would be missing."""

    available_bytes: int
    burst_bytes: int
    """What the fastest unsharing that was observed would take in ``REACTION``; at most what is
    saved."""
    saved_bytes: int
    """What the worst case would take."""
    wanted_bytes: int
    """What has to stay available."""

    @property
    def after_burst_bytes(self) -> int:
        """What would be left after the burst."""
        return self.available_bytes - self.burst_bytes

    @property
    def at_worst_bytes(self) -> int:
        """What would be left if every merged page were written at once."""
        return self.available_bytes - self.saved_bytes

    @property
    def state(self) -> State:
        """CRITICAL: a burst would take the reserve. WARNING: the worst case would."""
        if self.after_burst_bytes < self.wanted_bytes:
            return "CRITICAL"
        return "WARNING" if self.at_worst_bytes < self.wanted_bytes else "OK"


class Unsharing:
    """Remembers how fast pages were unshared, moment by moment."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque()
        self._peaks: deque[tuple[float, float]] = deque()
        """Time and rate, falling: each is the fastest since the one before it."""

    def add(self, moment: Moment) -> None:
        """Take a moment into account; moments come in order."""
        self._moments.append(moment)
        while len(self._moments) > 2 and moment.time - self._moments[1].time >= WINDOW:
            self._moments.popleft()
        rate = pages_per_second(self._moments[0], moment)
        while self._peaks and self._peaks[-1][1] <= rate:
            self._peaks.pop()
        self._peaks.append((moment.time, rate))
        while moment.time - self._peaks[0][0] > REMEMBERED:
            self._peaks.popleft()

    @property
    def fastest(self) -> float:
        """The fastest that pages were unshared, per second; 0 if nothing was observed yet."""
        return self._peaks[0][1] if self._peaks else 0.0


def pages_per_second(before: Moment, now: Moment) -> float:
    """Return how many merged pages of both engines were written per second."""
    rates = Rates.between(before, now)
    return (rates.user_separations or 0.0) + (rates.kernel_separations or 0.0)


def reserve(moment: Moment, fastest: float, wanted_bytes: int = 0) -> Reserve | None:
    """Work out what would be left; None if this host does not say what is available.

    ``fastest``: the fastest unsharing to expect, in pages per second. Zero pages that were given
    back count as saved, too: a write to one takes a page.
    """
    if moment.host.available_bytes is None:
        return None
    burst = min(int(fastest * REACTION * PAGE_SIZE), moment.saved_bytes)
    return Reserve(moment.host.available_bytes, burst, moment.saved_bytes, wanted_bytes)
