"""The processor time that all domains of a hub share."""

from __future__ import annotations

import time

from pagemerge.hub.decide import pace

LATER = 0.01
"""Seconds that a greeting waits while the budget is overdrawn. Processes that connect and leave all
the time have hung up by then, and cost nothing more."""

MOST_SPARE = 1.0
"""Processor seconds that the hub may save up for work that yields little. It has them at the start,
so that a hub with little work does it at once."""

MOST_SPARE_OWED = 0.5
"""The most of it that may be owed."""

MOST_OWED = 3.0
"""Seconds that an allowance may be overdrawn by one plan that took long."""


class Allowance:
    """Time that is earned as time passes, and can be saved up and owed within limits."""

    def __init__(self, share: float) -> None:
        """``share``: seconds that are earned in a second; 1 means no limit."""
        self.share, self._credit, self._seen = share, MOST_SPARE, time.monotonic()

    @property
    def is_left(self) -> bool:
        """True if there is time to spend."""
        return self.share >= 1 or self._earned() > 0

    def spend(self, seconds: float) -> None:
        """Note that ``seconds`` were spent."""
        self._credit = max(self._earned() - seconds, -MOST_OWED)

    def _earned(self) -> float:
        now = time.monotonic()
        self._credit = min(self._credit + self.share * (now - self._seen), MOST_SPARE)
        self._seen = now
        return self._credit


class Budget:
    """The processor time that the loops of all domains together may take."""

    def __init__(self, share: float, idle_share: float) -> None:
        self._idle_share, self._spare = idle_share, MOST_SPARE
        self._share, self._owed = share, 0.0
        self.hurries = False
        """Memory is short: the loops may take a whole core, and what they take is not owed."""
        self._worked, self._seen = time.process_time(), time.monotonic()

    def set_shares(self, share: float, idle_share: float) -> None:
        """Use other shares of one core from now on; what is owed and saved up stays."""
        self._share, self._idle_share = share, idle_share

    @property
    def is_overdrawn(self) -> bool:
        """True if the hub has to rest for its work; then a new client waits for ``LATER``."""
        return self._owed > 0

    @property
    def has_spare(self) -> bool:
        """True if the hub may do work that yields little."""
        return self._spare > 0

    def rest(self, spare: float) -> float:
        """Return the seconds to rest for all work since the last call, clients' requests included.

        ``spare``: seconds of processor time for work that yielded too little to be worth it.
        """
        worked, now = time.process_time(), time.monotonic()
        spent, passed = worked - self._worked, now - self._seen
        self._worked, self._seen = worked, now
        self._spare = min(self._spare + self._idle_share * passed, MOST_SPARE)
        if self.hurries:
            self._owed = 0.0
            return max(spent - passed, 0.0)
        self._spare = max(self._spare - spare, -MOST_SPARE_OWED)
        # Time without work earns no credit for later.
        self._owed = pace.rest(self._owed + spent, passed, self._share) * self._share
        return self._owed / self._share
