"""When the hub reads what a client maps, because its records may be wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass

SOON, SOONEST = 20, 10.0
"""The mappings of a client are read again after ``SOON`` times the time that this took, but no more
than ``SOONEST`` seconds."""

PAUSE, PAUSES, LONGEST = 1.0, 1000, 60.0
"""If only some records say too much, they are read again after ``PAUSE`` seconds, or after
``PAUSES`` times the time that it took if that is longer, but no more than ``LONGEST``."""


@dataclass(slots=True)
class Doubt:
    """Why the records of what a client maps may be wrong, until the hub has read /proc/PID/maps."""

    more: bool = False
    """True if it may map slots without a record: it handed slabs back, or pages are merged in a
    region that is new, which may have been a part of another one."""
    fewer: bool = False
    """True if pages that have a record have left their slabs: the program gave them up. What the
    records still say costs memory and is no danger."""
    reading: bool = False
    """True while the hub reads them."""
    interrupted: int = 0
    """Attempts in a row that have given up."""
    _soon: float = 0.0
    _later: float = 0.0

    @property
    def is_due(self) -> bool:
        """True if the hub should read the mappings now."""
        now = time.monotonic()
        return (self.more and now >= self._soon) or (self.fewer and now >= self._later)

    def note(self, *, more: bool = False, fewer: bool = False) -> None:
        """Note a reason; the fields tell which. It counts also if the hub reads just now."""
        self.more |= more
        self.fewer |= fewer

    def begin(self) -> tuple[bool, bool]:
        """The hub begins to read, and notes what else comes; returns the reasons so far."""
        reasons, self.more, self.fewer = (self.more, self.fewer), False, False
        self.reading = True
        return reasons

    def end(self, took: float) -> None:
        """The hub has read them, or has given up; this took so many seconds."""
        self.reading = False
        now = time.monotonic()
        self._soon = now + min(took * SOON, SOONEST)
        self._later = now + min(max(PAUSE, took * PAUSES), LONGEST)
