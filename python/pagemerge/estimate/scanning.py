"""How soon ksmd would merge memory that is marked, by its settings; pure functions but ``ksmd``."""

from __future__ import annotations

from dataclasses import dataclass, field

from pagemerge.linux.knobs import SCAN_TIME, Knobs, Standstill, standstill
from pagemerge.linux.ksm import Ksm, KsmCounters

PAGE_SECONDS = 3e-6
"""Processor seconds of ksmd for a page, as the governor assumes (``ksmd.decide.course``)."""

SCANS = 2
"""Scans that a page needs at least: ksmd notes its checksum, and merges it if that stays equal."""


@dataclass(frozen=True, slots=True)
class Ksmd:
    """What decides when ksmd merges."""

    knobs: Knobs = field(default_factory=Knobs)
    marked_pages: int = 0
    """Pages that ksmd may merge, of all processes of the host, as far as known."""
    lack: str = ""
    """Why this user cannot change its settings; empty if they can be changed."""
    driver: int | None = None
    """Pid of the governor that drives it; None if there is none."""

    @property
    def exists(self) -> bool:
        """This kernel has KSM."""
        return self.knobs.run is not None

    @property
    def stands(self) -> Standstill | None:
        """Why it scans nothing; None if it scans."""
        return standstill(self.knobs)

    @property
    def pages_per_second(self) -> float:
        """Pages that it looks at in a second, if it scans."""
        pages = self.knobs.pages_to_scan or 0
        pause = (self.knobs.sleep_millisecs or 0) / 1000
        return pages / (pause + pages * PAGE_SECONDS) if pages else 0.0

    @property
    def seconds(self) -> float:
        """Seconds until it has merged what does not change, if it scans."""
        rate = self.pages_per_second
        return SCANS * self.marked_pages / rate if rate else 0.0

    @property
    def pace(self) -> str:
        """Its settings, as a clause: ``100 pages every 20 ms``."""
        told = f"{self.knobs.pages_to_scan or 0:,} pages every {self.knobs.sleep_millisecs or 0} ms"
        return f"{told}, as its advisor sets" if self.knobs.advisor_mode == SCAN_TIME else told


def ksmd(marked_pages: int, kernel: Ksm | None = None) -> Ksmd:
    """Read the state of kernel KSM.

    ``marked_pages``: pages that are known to be marked; its own counters may know of more.
    """
    kernel = kernel or Ksm()
    known = _recorded(kernel.counters())
    return Ksmd(kernel.knobs(), max(marked_pages, known), kernel.lack() or "", kernel.driver())


def _recorded(counters: KsmCounters) -> int:
    """Count the pages that ksmd has a record of: it has seen them at its last scan."""
    kinds = (
        counters.pages_shared,
        counters.pages_sharing,
        counters.pages_unshared,
        counters.pages_volatile,
    )
    return sum(max(it or 0, 0) for it in kinds)
