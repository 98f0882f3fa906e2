"""The outcome of a demo, and whether it is good enough."""

from __future__ import annotations

from dataclasses import dataclass

GOOD_ENOUGH = 0.95
"""The part of the expected savings that must have been saved."""

OWN_BYTES = 500_000
"""Bytes that a worker's interpreter and agent may allocate for themselves meanwhile: they are in
the accounts, and not in the expected savings."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """Memory as the kernel accounts it at one moment, in bytes."""

    pss_bytes: int
    """PSS of the workers' anonymous memory: with what is swapped out, without slabs, and
    without files, because other processes map the same libraries."""
    store_bytes: int
    """Size of the slabs, each counted once."""
    available_bytes: int | None
    """MemAvailable of the host, and the free pages on the lists of its processors."""
    cgroup_bytes: int | None
    """Usage of the memory cgroup that the demo runs in."""

    @property
    def total_bytes(self) -> int:
        """Memory that the workers need together."""
        return self.pss_bytes + self.store_bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of ``demo --json``; bytes, pages and seconds as the names say."""

    workers: int
    page_size: int
    engine: str
    barrier: str
    """Barrier that the workers used: move | write-protect | park | intern."""
    asked_barrier: str
    """Barrier that --barrier asked for; auto leaves the choice to the workers."""
    why: str
    """Reason for the barrier that was used."""
    before: Accounts
    after: Accounts
    before_bytes: int
    after_bytes: int
    saved_bytes: int
    expected_saved_bytes: int
    loaded_bytes: int
    """Real data in each worker."""
    private_bytes: int
    """Random data in each worker."""
    hot_bytes: int
    """Memory in each worker that its writer writes all the time."""
    sources: list[str]
    """Names of the sources of the real data."""
    merge_seconds: float
    """Time from the start of merging until the gain no longer grew."""
    cpu_seconds: float
    """Processor time that the hub and the workers spent on merging."""
    pages_shared: int
    pages_sharing: int
    zero_pages: int
    writes: int
    """Pages that the writers wrote until the check."""
    lost_writes: int
    changed_pages: int
    """Pages that no longer hold what was loaded."""
    contents_verified: bool
    written_pages: int
    """Shared pages that one worker wrote to afterwards."""
    separated_after_write: bool
    """The worker has its own copy of each of them, and no other page of any worker changed."""

    def faults(self) -> list[str]:
        """List what went wrong, one sentence each; empty if the demo did what it should."""
        found = []
        if self.asked_barrier not in ("auto", self.barrier):
            found.append(
                f"--barrier {self.asked_barrier} was asked for, the workers ran under "
                f"{self.barrier}: {self.why}"
            )
        if self.lost_writes:
            found.append(f"{self.lost_writes} writes were lost")
        if self.changed_pages:
            found.append(f"{self.changed_pages} pages do not hold what was loaded")
        own = self.workers * OWN_BYTES
        if self.saved_bytes + own < GOOD_ENOUGH * self.expected_saved_bytes:
            found.append(
                f"{self.saved_bytes} bytes were saved, less than {GOOD_ENOUGH:.0%} of the "
                f"{self.expected_saved_bytes} that were expected, even with {own} bytes that the "
                "workers may have taken for themselves"
            )
        if not self.separated_after_write:
            found.append("a write to a shared page did not give the writer a page of its own")
        return found
