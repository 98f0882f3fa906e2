"""The processor time that all domains of a hub share."""

from __future__ import annotations

import time

from pagemerge.hub.decide import pace

LATER = 0.01
"""Seconds that a greeting waits while the budget is overdrawn. A process that has hung up by then,
as those do that come and go all the time, costs no more."""

MOST_SPARE = 1.0
"""Processor seconds that may be saved up for work that yields little, and are there at the start:
so a hub that has little to do does it at once."""


class Budget:
    """The processor time that the loops of all domains together may take."""

    def __init__(self, share: float, idle_share: float) -> None:
        self._idle_share, self._spare = idle_share, MOST_SPARE
        self._share, self._owed = share, 0.0
        self._worked, self._seen = time.process_time(), time.monotonic()

    @property
    def is_overdrawn(self) -> bool:
        """Is there work to rest for? Then a new client waits for a moment (``LATER``)."""
        return self._owed > 0

    @property
    def has_spare(self) -> bool:
        """May work be done that yields little?"""
        return self._spare > 0

    def rest(self, is_spare: bool) -> float:
        """Seconds to rest for all work since the last time, what clients asked for too.

        ``is_spare``: it was not worth it by what it yielded.
        """
        worked, now = time.process_time(), time.monotonic()
        spent, passed = worked - self._worked, now - self._seen
        self._worked, self._seen = worked, now
        self._spare = min(self._spare + self._idle_share * passed, MOST_SPARE)
        if is_spare:
            self._spare -= spent
        # What a time without work would have allowed is not saved up.
        self._owed = pace.rest(self._owed + spent, passed, self._share) * self._share
        return self._owed / self._share
