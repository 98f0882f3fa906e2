"""Sources of pages: their protocol, and processes as sources.

Used by the modules that compare pages: ``survey`` (what would merging save?) and ``evidence``
(where do the duplicates lie?).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge.errors import AccessDenied, PagemergeError
from pagemerge.find import eligible, tally
from pagemerge.find.process import Process, explain
from pagemerge.find.stable import Stretch
from pagemerge.linux.maps import Devices, Mapping, devices, marked
from pagemerge.linux.maps import mappings as maps_of
from pagemerge.linux.process import ksm_stat
from pagemerge.model import PAGE_SIZE

UInt64s = NDArray[np.uint64]

STEP = (256 << 20) // PAGE_SIZE
"""Pages between two steps of the progress: 256 MiB, about 40 ms."""

MEMORYLESS = "it has no memory of its own (kernel thread or zombie)"


class Source(Protocol):
    """A source of pages that can be compared with those of other sources."""

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def domain(self) -> int:
        """Its trust domain: pages are compared inside it only."""

    @property
    def total(self) -> int:
        """Number of pages to look at."""

    def read(
        self, seed: int, digests: UInt64s, frames: UInt64s, threads: int
    ) -> Iterator[tuple[int, int]]:
        """Fill ``digests`` and ``frames`` (see ``tally``), u64[total] each.

        Yields the pages and bytes of each step. Pages that cannot be read are absent. ``threads``
        0: one for each processor that this process may use.
        """


@dataclass(slots=True)
class ProcessSource:
    """The pages of one process to look at; its runs ascend."""

    process: Process
    mapped: int = 0
    """Number of mappings of any kind."""
    mappings: list[Mapping] = field(default_factory=list)
    """Mappings with pages to look at."""
    runs: list[int] = field(default_factory=list)
    """Number of runs of each of ``mappings``."""
    starts: UInt64s = field(default_factory=lambda: np.empty(0, np.uint64))
    """u64[runs]: address of the first page of each run."""
    pages: UInt64s = field(default_factory=lambda: np.empty(0, np.uint64))
    """u64[runs]: pages in each run."""
    ineligible: Counter[str] = field(default_factory=Counter)
    """A key of ``eligible.REASONS`` -> bytes; counted by ``locate``, not by ``locate_for_ksmd``."""
    stretches: list[Stretch] = field(default_factory=list)
    """Its mappings of our own slabs; found by ``locate``."""
    unreadable: int = 0
    error: str = ""
    """Why the look at it failed, or did not come to the end."""
    denied: bool = False
    """The error is a missing permission."""

    @property
    def total(self) -> int:
        """Number of pages to look at."""
        return int(self.pages.sum())

    @property
    def markable(self) -> NDArray[np.bool_]:
        """Pages in anonymous mappings, which the user engine could merge: bool[total]."""
        known = np.array([not it.inode and it.path[:1] != "[" for it in self.mappings], np.bool_)
        runs = np.repeat(known, self.runs)
        return np.repeat(runs, self.pages.astype(np.int64))

    @property
    def name(self) -> str:
        """Its name for people."""
        return self.process.name

    @property
    def domain(self) -> int:
        """Its trust domain: the effective uid."""
        return self.process.uid

    def read(
        self, seed: int, digests: UInt64s, frames: UInt64s, threads: int
    ) -> Iterator[tuple[int, int]]:
        """Read as ``Source.read``. If the process ends, all its pages become absent."""
        pid, at = self.process.pid, 0
        digests.fill(_core.ABSENT)
        frames.fill(_core.ABSENT)
        try:
            for starts, pages in _steps(self.starts, self.pages):
                here = slice(at, at + int(pages.sum()))
                _core.pagemap(pid, starts, pages, frames[here])
                read, unreadable = _core.read_digests(
                    pid, starts, pages, frames[here], seed, digests[here], threads
                )
                frames[here] = tally.shared_frames(frames[here], digests[here])
                self.unreadable += unreadable
                at = here.stop
                yield here.stop - here.start, read
        except PagemergeError as error:
            self.error = explain(error, self.process)
            digests.fill(_core.ABSENT)
            frames.fill(_core.ABSENT)
            yield len(digests) - at, 0


def locate(process: Process) -> ProcessSource:
    """Find all pages of ``process`` that can be merged; count those that are merged already, and
    those that cannot be merged."""
    return _locate(process, _mapping_runs)


def locate_for_ksmd(process: Process) -> ProcessSource:
    """Find the pages of ``process`` that ksmd would merge: not those of our own slabs."""
    return _locate(process, _private_runs)


def locate_marked(process: Process) -> ProcessSource:
    """Find the pages of ``process`` that ksmd may merge now.

    In QEMU these are the pages of the guest, not QEMU's own.
    """
    try:
        if ksm_stat(process.pid).get("ksm_merge_any") == b"yes":
            return locate_for_ksmd(process)
        starts = marked(process.pid)
    except PagemergeError as error:
        return ProcessSource(process, error=explain(error, process))

    def runs_of(source: ProcessSource, mapping: Mapping, known: Devices) -> Runs:
        return _private_runs(source, mapping, known) if mapping.start in starts else NOTHING

    return _locate(process, runs_of)


Runs = tuple[UInt64s, UInt64s]
"""Addresses and pages, u64[r] each."""
NOTHING: Runs = (np.empty(0, np.uint64), np.empty(0, np.uint64))


def _locate(
    process: Process, runs_of: Callable[[ProcessSource, Mapping, Devices], Runs]
) -> ProcessSource:
    source = ProcessSource(process)
    try:
        found = maps_of(process.pid)
        if not found:
            source.error = MEMORYLESS
            return source
        source.mapped = len(found)
        known = devices(process.pid)
        runs = [runs_of(source, mapping, known) for mapping in found]
        source.starts = np.concatenate([starts for starts, _ in runs])
        source.pages = np.concatenate([pages for _, pages in runs])
        there = [(mapping, len(run[0])) for mapping, run in zip(found, runs, strict=True)]
        source.mappings = [mapping for mapping, number in there if number]
        source.runs = [number for _, number in there if number]
    except PagemergeError as error:
        why = explain(error, process)
        return ProcessSource(process, error=why, denied=isinstance(error, AccessDenied))
    return source


def _mapping_runs(source: ProcessSource, mapping: Mapping, known: Devices) -> Runs:
    """Find runs of ``mapping`` to look at; only count present pages that cannot be merged."""
    pid, start, end = source.process.pid, mapping.start, mapping.end
    why = eligible.obstacle(mapping, known)
    if why:
        source.ineligible[why] += PAGE_SIZE * int(_runs(pid, start, end, False)[1].sum())
        return NOTHING
    runs = _runs(pid, start, end, True)
    if mapping.slab:
        source.stretches.append(Stretch.of(mapping, *runs))
    elif mapping.inode:
        unchanged = int(_runs(pid, start, end, False)[1].sum()) - int(runs[1].sum())
        source.ineligible[eligible.FILE_PAGES] += PAGE_SIZE * max(unchanged, 0)
    return runs


def _private_runs(source: ProcessSource, mapping: Mapping, known: Devices) -> Runs:
    """Find runs of ``mapping`` that ksmd would look at."""
    if mapping.slab or eligible.obstacle(mapping, known):
        return NOTHING
    return _runs(source.process.pid, mapping.start, mapping.end, True)


def _runs(pid: int, start: int, end: int, anonymous: bool) -> Runs:
    starts, pages = _core.present_runs(pid, start, end, anonymous)
    return np.frombuffer(starts, np.uint64), np.frombuffer(pages, np.uint64)


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
