"""What the parts of the kernel engine hand each other: frozen dataclasses, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy takes longer to import than the whole command line
    import numpy as np
    import numpy.typing as npt

from pagemerge.linux.knobs import Knobs
from pagemerge.linux.ksm import KsmCounters


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The ranges of one process that are worth being marked as mergeable."""

    pid: int
    name: str
    start: npt.NDArray[np.uint64]
    """u64[r]: page-aligned; ascending, disjoint, each inside one mapping."""
    end: npt.NDArray[np.uint64]
    """u64[r]."""
    looked: int
    """Pages that marking the whole process would have ksmd look at."""
    marked: int
    """Pages that it will look at."""
    duplicates: int
    """Of these, pages that merge, if their like are marked too."""
    left_out: int
    """Duplicates that are not marked."""
    gain: float
    """Pages of memory that marking these frees."""
    mappings: int
    """VMAs that marking adds to the process."""
    error: str = ""
    """Why the process could not be looked at; there are no ranges then."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First byte and byte behind of each."""
        return list(zip(self.start.tolist(), self.end.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Goals:
    """What the admin wants of the governor."""

    cpu_percent: float = 20.0
    """Of one core that ksmd and the governor may use over time."""
    burst_seconds: float = 30.0
    """Processor seconds that may be spent at once, saved up while ksmd stands."""
    price_bytes: float = 100_000.0
    """Bytes a second that a percent of a core must gain: a processor second, 100 times as many."""
    pressure_percent: float = 5.0
    """Share of the time in which something waits for memory (PSI some avg10) from which on memory
    counts for more: the budget is a whole core then, and the price a tenth."""
    available_percent: float = 10.0
    """Share of the host's memory below which the same holds if no more is available."""
    merge_across_nodes: int | None = None
    """To be set before the first page is merged, since the kernel refuses it after; None: leave it.
    """


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the governor knows at one moment."""

    seconds: float
    """On the monotonic clock."""
    knobs: Knobs
    counters: KsmCounters
    spent_seconds: float
    """Processor time of ksmd and of the governor itself, so far."""
    processes: int
    """That have mergeable memory."""
    resident_bytes: int
    """Their anonymous memory."""
    available_bytes: int | None = None
    total_bytes: int = 0
    """Of the host."""
    pressure: float | None = None
    """PSI: percent of the last ten seconds in which something waited for memory."""
    changed_share: float | None = None
    """Of a sample: what differs from the last look, and not from the sample before. None where
    none was taken."""
    moving_share: float | None = None
    """Of the same sample: what differs from the sample before."""
    promised_bytes: int | None = None
    """What the finder says merging would still save; None where it did not look."""
    merged_bytes: int | None = None
    """What is merged now, counted frame by frame (``find.merged``), zero pages too; None where it
    did not look or cannot tell."""
    look_seconds: float = 0.0
    """Processor time that this look took."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the governor does now, and what it wants to know next."""

    knobs: Knobs
    """Those to write; None: leave it."""
    reason: str
    wait_seconds: float
    """Until the next snapshot."""
    sample: bool = False
    """The next snapshot shall tell what has changed."""
    look: bool = False
    """The next snapshot shall tell what merging would save."""
    topic: str = ""
    """What ``reason`` is about, if that is to be told once even where no knob is written: done, or
    why ksmd stands (nobody, little, restless). Figures in ``reason`` change; this does not."""
