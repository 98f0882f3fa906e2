"""What merging would save, by looking once at every page of some processes. Reads only.

Figures are pages, and hold for one moment: memory that changes while it is read may be counted
either way. Pages merge inside a trust domain only, here the effective uid; so domains are
counted apart and added up.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge.errors import PagemergeError
from pagemerge.find import maps, tally
from pagemerge.find.process import Process, explain
from pagemerge.find.tally import Totals
from pagemerge.model import PAGE_SIZE

UInt64s = NDArray[np.uint64]

STEP = (256 << 20) // PAGE_SIZE
"""Pages between two steps of the progress: 256 MiB, some 40 ms."""

MEMORYLESS = "it has no memory of its own (kernel thread or zombie)"

Progress = Callable[[int, int], None]
"""Called with the pages done and the pages to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One process of a survey; all figures are 0 where there is an error."""

    process: Process
    pages: int = 0
    """Anonymous pages that were there and could be read."""
    zero_pages: int = 0
    """Of these, all zero bytes."""
    duplicate_pages: int = 0
    """Of these, not zero, with their content at least once more in the trust domain: in this
    process or another, in the same physical page or not."""
    saveable_bytes: int = 0
    """Its part of what merging would save: every holder of a page counts the same."""
    unreadable_pages: int = 0
    """Were there a moment before, and could not be read."""
    ineligible: dict[str, int] = field(default_factory=dict)
    """A key of ``maps.REASONS`` -> bytes that are present and cannot be merged."""
    error: str = ""
    """Why it could not be looked at."""

    @property
    def memoryless(self) -> bool:
        """A kernel thread or a zombie."""
        return self.error == MEMORYLESS


@dataclass(frozen=True, slots=True)
class Survey:
    """What ``survey`` found out."""

    rows: list[Row]
    """In the order of the processes given."""
    totals: Totals
    ineligible: dict[str, int]
    """Summed over processes: memory shared by two of them counts twice."""
    bytes_read: int
    read_seconds: float
    """In reading and digesting alone."""
    seconds: float


@dataclass(slots=True)
class _Source:
    """The pages of one process, on their way through the survey."""

    process: Process
    starts: UInt64s = field(default_factory=lambda: np.empty(0, np.uint64))
    pages: UInt64s = field(default_factory=lambda: np.empty(0, np.uint64))
    ineligible: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    error: str = ""

    @property
    def total(self) -> int:
        return int(self.pages.sum())


def survey(
    processes: Sequence[Process], threads: int = 0, progress: Progress = lambda _d, _t: None
) -> Survey:
    """Look at all ``processes`` with ``threads`` threads (0: as many as may run).

    A process that exits or denies access becomes a row with an ``error``; nothing is raised
    for it.
    """
    started = time.monotonic()
    threads = threads or len(os.sched_getaffinity(0))
    seed = secrets.randbits(64)
    sources = [_locate(process) for process in processes]
    to_do = sum(source.total for source in sources)
    rows: dict[int, Row] = {}
    totals = Totals()
    done, read, read_seconds = 0, 0, 0.0
    for domain in _domains(sources):
        offsets = np.cumsum([0] + [source.total for source in domain], dtype=np.int64)
        digests = np.empty(int(offsets[-1]), np.uint64)
        frames = np.empty_like(digests)
        for source, at in zip(domain, offsets.tolist(), strict=False):
            here = slice(at, at + source.total)
            reading = time.monotonic()
            for count, size in _read(source, seed, digests[here], frames[here], threads):
                done, read = done + count, read + size
                progress(done, to_do)
            read_seconds += time.monotonic() - reading
        counted = tally.tally(digests, frames, offsets)
        totals += counted.totals
        rows.update((s.process.pid, _row(s, counted, i)) for i, s in enumerate(domain))
    ineligible = sum((source.ineligible for source in sources), Counter[str]())
    return Survey(
        [rows[process.pid] for process in processes],
        totals,
        dict(ineligible),
        read,
        read_seconds,
        time.monotonic() - started,
    )


def _domains(sources: list[_Source]) -> Iterator[list[_Source]]:
    for uid in sorted({source.process.uid for source in sources}):
        yield [source for source in sources if source.process.uid == uid]


def _locate(process: Process) -> _Source:
    """Which pages of ``process`` to look at."""
    source = _Source(process)
    try:
        found = maps.mappings(process.pid)
        if not found:
            source.error = MEMORYLESS
            return source
        known = maps.devices(process.pid)
        runs = [_mapping_runs(source, mapping, known) for mapping in found]
        source.starts = np.concatenate([starts for starts, _ in runs])
        source.pages = np.concatenate([pages for _, pages in runs])
    except PagemergeError as error:
        return _Source(process, error=explain(error, process))
    return source


def _mapping_runs(
    source: _Source, mapping: maps.Mapping, known: maps.Devices
) -> tuple[UInt64s, UInt64s]:
    """Runs of ``mapping`` to look at; what is present and cannot be merged is only counted."""
    nothing = np.empty(0, np.uint64)
    pid, start, end = source.process.pid, mapping.start, mapping.end
    why = maps.obstacle(mapping, known)
    if why:
        source.ineligible[why] += PAGE_SIZE * int(_runs(pid, start, end, False)[1].sum())
        return nothing, nothing
    runs = _runs(pid, start, end, not mapping.slab)
    if mapping.inode and not mapping.slab:
        unchanged = int(_runs(pid, start, end, False)[1].sum()) - int(runs[1].sum())
        source.ineligible[maps.FILE_PAGES] += PAGE_SIZE * max(unchanged, 0)
    return runs


def _runs(pid: int, start: int, end: int, anonymous: bool) -> tuple[UInt64s, UInt64s]:
    starts, pages = _core.present_runs(pid, start, end, anonymous)
    return np.frombuffer(starts, np.uint64), np.frombuffer(pages, np.uint64)


def _read(
    source: _Source, seed: int, digests: UInt64s, frames: UInt64s, threads: int
) -> Iterator[tuple[int, int]]:
    """Fill ``digests`` and ``frames`` (see ``tally``) with the pages of ``source``.

    Yields the pages and bytes of each step. If the process goes, all its pages become absent.
    """
    pid, at = source.process.pid, 0
    digests.fill(_core.ABSENT)
    frames.fill(_core.ABSENT)
    try:
        for starts, pages in _steps(source.starts, source.pages):
            here = slice(at, at + int(pages.sum()))
            _core.pagemap(pid, starts, pages, frames[here])
            read, unreadable = _core.read_digests(
                pid, starts, pages, frames[here], seed, digests[here], threads
            )
            frames[here] = tally.shared_frames(frames[here], digests[here])
            source.unreadable += unreadable
            at = here.stop
            yield here.stop - here.start, read
    except PagemergeError as error:
        source.error = explain(error, source.process)
        digests.fill(_core.ABSENT)
        frames.fill(_core.ABSENT)
        yield len(digests) - at, 0


def _steps(starts: UInt64s, pages: UInt64s) -> Iterator[tuple[UInt64s, UInt64s]]:
    """Cut runs into batches of about ``STEP`` pages; longer runs are cut too."""
    pieces = -(-pages.astype(np.int64) // STEP)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    skipped = ((np.arange(len(first)) - first) * STEP).astype(np.uint64)
    starts = np.repeat(starts, pieces) + skipped * np.uint64(PAGE_SIZE)
    pages = np.minimum(np.repeat(pages, pieces) - skipped, np.uint64(STEP))
    batch = np.cumsum(pages) // np.uint64(STEP)
    cuts = np.flatnonzero(batch[1:] != batch[:-1]) + 1
    for part in np.split(np.arange(len(pages)), cuts):
        if len(part):
            yield starts[part], pages[part]


def _row(source: _Source, counted: tally.Tally, index: int) -> Row:
    if source.error:
        return Row(source.process, error=source.error)
    return Row(
        source.process,
        int(counted.pages[index]),
        int(counted.zero_pages[index]),
        int(counted.duplicate_pages[index]),
        int(counted.gain[index] * PAGE_SIZE),
        source.unreadable,
        dict(source.ineligible),
    )
