"""Works out what merging would save, from one look at every page of some processes. Only reads.

Figures are pages, and hold for one moment: memory that changes during the look may be counted
either way. Pages merge inside a trust domain only. So each domain is counted separately, and the
results are added up. Stable pages of our own slabs are counted separately; a page that equals one
of them, and no other page, counts as unique.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pagemerge.find import stable, tally
from pagemerge.find.look import Look, Progress, look
from pagemerge.find.process import Process
from pagemerge.find.sources import MEMORYLESS, ProcessSource, Source, locate, located
from pagemerge.find.stable import Stable
from pagemerge.find.tally import Totals
from pagemerge.model import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Row:
    """One process or memory image of a survey; if it has an error, all figures are 0."""

    name: str
    """For people; print it through ``text.plain`` only."""
    pid: int | None = None
    """None for a memory image, as ``uid``."""
    uid: int | None = None
    """Effective user id."""
    domain: str = ""
    """Its trust domain."""
    pages: int = 0
    """Anonymous pages that were present and could be read."""
    zero_pages: int = 0
    """Pages of ``pages`` with all bytes zero."""
    duplicate_pages: int = 0
    """Pages of ``pages`` that are not zero, with their content at least once more in the trust
    domain: in this process or another, in the same physical page or not."""
    shared_pages: int = 0
    """Pages in one physical page with another page that was looked at: since a fork, or merged by
    Linux."""
    saveable_bytes: int = 0
    """Its part of what merging would save: all holders of a page get equal parts."""
    merged_pages: int = 0
    """Stable pages of a hub that it maps; not among ``pages``."""
    unreadable_pages: int = 0
    """Pages that were present a moment before, and could not be read."""
    ineligible: dict[str, int] = field(default_factory=dict)
    """A key of ``eligible.REASONS`` -> bytes that are present and cannot be merged."""
    error: str = ""
    """Why it could not be looked at."""
    denied: bool = False
    """The error is a missing permission."""

    @property
    def memoryless(self) -> bool:
        """The process is a kernel thread or a zombie."""
        return self.error == MEMORYLESS


@dataclass(frozen=True, slots=True)
class Survey:
    """The result of ``survey``."""

    rows: list[Row]
    """In the order of the processes given."""
    totals: Totals
    merged: Stable
    """Merged pages of our own slabs."""
    ineligible: dict[str, int]
    """Bytes by reason, summed over processes: memory that two processes share counts twice."""
    bytes_read: int
    read_seconds: float
    """Seconds for reading and digesting alone."""
    seconds: float


def survey(
    processes: Sequence[Process],
    threads: int = 0,
    progress: Progress = lambda _d, _t: None,
    *,
    together: bool = False,
    locate: Callable[[Process], ProcessSource] = locate,
) -> Survey:
    """Look at all ``processes`` with ``threads`` threads (0: one for each usable processor).

    ``together``: all processes, of any user, are one trust domain, as for kernel KSM.
    ``locate``: chooses the pages of a process to look at.
    A process that exits or denies access becomes a row with an ``error``; nothing is raised
    for it.
    """
    started = time.monotonic()
    sources = located(processes, locate)
    if together:
        for source in sources:
            source.domain = None
    found = summed_up(look(sources, threads, progress))
    rows = {row.pid: row for row in found.rows}
    ordered = [rows[process.pid] for process in processes]
    return replace(found, rows=ordered, seconds=time.monotonic() - started)


def summed_up(found: Look) -> Survey:
    """Count what a look has found, domain by domain; the rows are in the order of its sources."""
    rows: list[Row] = []
    totals, merged, ineligible = Totals(), Stable(), Counter[str]()
    for domain in found.domains():
        counted = tally.tally(domain.digests, domain.frames, domain.offsets, domain.markable())
        totals += counted.totals
        rows += [_row(source, counted, at) for at, source in enumerate(domain.sources)]
        processes = [it for it in domain.sources if isinstance(it, ProcessSource)]
        merged += stable.count(it for source in processes for it in source.stretches)
        ineligible += sum((source.ineligible for source in processes), Counter[str]())
    return Survey(
        rows, totals, merged, dict(ineligible), found.bytes_read, found.seconds, found.seconds
    )


def _row(source: Source, counted: tally.Tally, index: int) -> Row:
    row = Row(source.name, domain=str(source.domain), error=source.error)
    process = source if isinstance(source, ProcessSource) else None
    if process is not None:
        who = process.process
        row = replace(row, pid=who.pid, uid=who.uid, denied=process.denied)
    if source.error:
        return row
    if process is None and not counted.pages[index]:
        return replace(row, error=getattr(source, "note", "") or "no page of it could be read")
    row = replace(
        row,
        pages=int(counted.pages[index]),
        zero_pages=int(counted.zero_pages[index]),
        duplicate_pages=int(counted.duplicate_pages[index]),
        shared_pages=int(counted.shared_pages[index]),
        saveable_bytes=int(counted.gain[index] * PAGE_SIZE),
    )
    if process is None:
        return row
    return replace(
        row,
        merged_pages=stable.count(process.stretches).pages,
        unreadable_pages=process.unreadable,
        ineligible=dict(process.ineligible),
    )
