"""Works out what merging would save, from one look at every page of some processes. Only reads.

Figures are pages, and hold for one moment: memory that changes during the look may be counted
either way. Pages merge inside a trust domain only, which is the effective uid here, unless the
caller takes all processes together. So each domain is counted separately, and the results are
added up. Stable pages of our own slabs are counted separately; a page that equals one of them, and
no other page, counts as unique.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pagemerge.find import stable, tally
from pagemerge.find.process import Process
from pagemerge.find.reading import Progress, Reader
from pagemerge.find.sources import MEMORYLESS, ProcessSource, locate
from pagemerge.find.stable import Stable
from pagemerge.find.tally import Totals
from pagemerge.model import PAGE_SIZE

NOTHING_MARKABLE = np.empty(0, np.bool_)


@dataclass(frozen=True, slots=True)
class Row:
    """One process of a survey; if it has an error, all figures are 0."""

    process: Process
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
    """Why the process could not be looked at."""
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
    sources = [locate(process) for process in processes]
    reader = Reader(threads, sum(source.total for source in sources), progress)
    rows: dict[int, Row] = {}
    totals, merged = Totals(), Stable()
    for domain in [sources] if together else _domains(sources):
        markable = np.concatenate([source.markable for source in domain] or [NOTHING_MARKABLE])
        counted = tally.tally(*reader.read(domain), markable)
        totals += counted.totals
        merged += stable.count(it for source in domain for it in source.stretches)
        rows.update((s.process.pid, _row(s, counted, i)) for i, s in enumerate(domain))
    ineligible = sum((source.ineligible for source in sources), Counter[str]())
    return Survey(
        [rows[process.pid] for process in processes],
        totals,
        merged,
        dict(ineligible),
        reader.bytes_read,
        reader.seconds,
        time.monotonic() - started,
    )


def _domains(sources: list[ProcessSource]) -> Iterator[list[ProcessSource]]:
    for uid in sorted({source.domain for source in sources}):
        yield [source for source in sources if source.domain == uid]


def _row(source: ProcessSource, counted: tally.Tally, index: int) -> Row:
    if source.error:
        return Row(source.process, error=source.error, denied=source.denied)
    return Row(
        source.process,
        int(counted.pages[index]),
        int(counted.zero_pages[index]),
        int(counted.duplicate_pages[index]),
        int(counted.shared_pages[index]),
        int(counted.gain[index] * PAGE_SIZE),
        stable.count(source.stretches).pages,
        source.unreadable,
        dict(source.ineligible),
    )
