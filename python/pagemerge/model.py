"""The dataclasses that stages hand each other; frozen, and free of I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAGE_SIZE = 4096
"""Bytes in a page; hosts with another page size are refused at import of ``_core``."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Elements of a digest array that share their digest with at least one other."""

    members: NDArray[np.int64]
    """int64[m]: indices of the elements, group after group, ascending inside each."""
    starts: NDArray[np.int64]
    """int64[groups + 1]: where each group starts in ``members``; the last is m."""

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One client of a hub, as ``pagemerge status`` shows it."""

    pid: int
    name: str
    uid: int
    domain: str
    """Trust domain: pages are shared inside it only."""
    barrier: str
    """move | write-protect | park | intern (no background merging)."""
    regions: int
    """Mergeable ranges."""
    bytes: int
    """Bytes in those ranges, present or not."""
    merged_pages: int
    """Pages of this client that map a slot now."""
    zero_pages: int
    """Pages given back because they were zero."""
    mappings: int
    """VMAs that merging added, as the agent counts them: one a merged run."""
    skipped: dict[str, int]
    """Reason -> pages that were candidates and were left alone."""
    note: str
    """Why this client is refused or held back; empty where it is not."""


@dataclass(frozen=True, slots=True)
class Status:
    """The counters of a hub (KSM's names); pages unless the name says otherwise."""

    engine: str
    hub_pid: int
    pages_shared: int
    """Stable pages in use."""
    pages_sharing: int
    """Mappings of stable pages beyond the first of each."""
    zero_pages: int
    """Zero pages given back."""
    pages_unshared: int
    """Looked at, stable, and unique."""
    pages_volatile: int
    """Changed between the last two looks."""
    full_scans: int
    """Cycles that looked at every region of every client."""
    store_bytes: int
    """Memory that the slabs of all domains hold."""
    metadata_bytes: int
    """Memory that the hub's own per-page records hold."""
    general_profit_bytes: int
    """Bytes saved, less slots nobody shares, less metadata and mappings."""
    cpu_seconds: float
    """Processor time of the hub since it started (user and system)."""
    seconds: float
    """Since the hub started."""
    clients: tuple[ClientStatus, ...]
