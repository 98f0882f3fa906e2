"""The data that the parts of the kernel engine exchange: frozen dataclasses, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy takes longer to import than the whole command line
    import numpy as np
    import numpy.typing as npt

from pagemerge.linux.knobs import Knobs
from pagemerge.linux.ksm import KsmCounters

HUGE_PRICE = 32
"""Fewest duplicates of a huge page of 2 MiB that are worth the huge page: ksmd splits it as soon as
it merges a page of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The ranges of one process that are worth marking as mergeable."""

    pid: int
    name: str
    start: npt.NDArray[np.uint64]
    """u64[r]: page-aligned; ascending, disjoint, each inside one mapping."""
    end: npt.NDArray[np.uint64]
    """u64[r]: address behind each range."""
    looked: int
    """Pages that ksmd would look at if the whole process were marked."""
    marked: int
    """Pages that ksmd will look at."""
    duplicates: int
    """Pages of ``marked`` that will merge, if the pages equal to them are marked too."""
    left_out: int
    """Duplicates that are not marked."""
    gain: float
    """Pages of memory that marking these ranges frees."""
    mappings: int
    """VMAs that marking adds to the process."""
    error: str = ""
    """Why the process could not be looked at; there are no ranges then."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Start and end address of each range."""
        return list(zip(self.start.tolist(), self.end.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Goals:
    """The admin's goals for the governor."""

    cpu_percent: float = 20.0
    """Percent of one core that ksmd and the governor may use over time."""
    burst_seconds: float = 30.0
    """The most processor seconds that may be spent at once, saved up while ksmd stands still."""
    price_bytes: float = 100_000.0
    """Bytes that merging must save for each hundredth of a processor second, so a processor second
    must save 100 times as many."""
    pressure_percent: float = 5.0
    """Percent of the time in which some task waits for memory (PSI some avg10) from which on memory
    counts for more: the budget is a whole core then, and the price a tenth."""
    available_percent: float = 10.0
    """Percent of the host's memory: if less is available, memory counts for more as well."""
    reserve_bytes: int = 0
    """Memory that must stay available even if every merged page is written at once: nothing more is
    merged where it would not. 0: none."""
    latency_percent: float = 0.0
    """Percent of the time in which others may wait for a processor while ksmd runs; 0: no
    budget."""
    merge_across_nodes: int | None = None
    """Value to set before the first page is merged, because the kernel refuses it later; None:
    leave it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the governor knows at one moment."""

    seconds: float
    """Time on the monotonic clock."""
    knobs: Knobs
    counters: KsmCounters
    spent_seconds: float
    """Processor time of ksmd and of the governor itself, so far."""
    processes: int
    """Number of processes with mergeable memory."""
    resident_bytes: int
    """Anonymous memory of these processes."""
    available_bytes: int | None = None
    total_bytes: int = 0
    """Available memory, and all memory, of the host."""
    pressure: float | None = None
    """PSI: percent of the last ten seconds in which some task waited for memory."""
    changed_share: float | None = None
    """Share of a sample that differs from the last look, but not from the sample before; None if no
    sample was taken."""
    moving_share: float | None = None
    """Share of the same sample that differs from the sample before."""
    promised_bytes: int | None = None
    """Bytes that merging would still save, by the finder; None if it did not look."""
    merged_bytes: int | None = None
    """Bytes that are merged now, counted frame by frame (``ksmd.merged``), zero pages too; None if
    the governor did not look or the kernel does not tell."""
    look_seconds: float = 0.0
    """Processor seconds that this look took."""
    stalled_seconds: float | None = None
    """PSI: seconds so far in which some thread waited for a processor."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the governor does now, and what it wants to know next."""

    knobs: Knobs
    """The knobs to write; None: leave the knob as it is."""
    reason: str
    wait_seconds: float
    """Seconds until the next snapshot."""
    sample: bool = False
    """True if the next snapshot must tell what has changed."""
    look: bool = False
    """True if the next snapshot must tell what merging would save."""
    topic: str = ""
    """The subject of ``reason``, if the governor logs it once even when it writes no knob: done, or
    why ksmd stands still (nobody, little, restless). Figures in ``reason`` change; the topic does
    not."""


Listener = Callable[[str, dict[str, int | str]], None]
"""Takes the decisions of a governor: why, and what was written to knobs."""
