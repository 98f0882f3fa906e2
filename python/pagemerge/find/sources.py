"""Sources of pages: their protocol, and processes as sources.

Used by the modules that compare pages: ``survey`` (what would merging save?) and ``evidence``
(where do the duplicates lie?).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge.errors import AccessDenied, PagemergeError
from pagemerge.find import eligible, tally
from pagemerge.find import pages as pages_of
from pagemerge.find.pages import Runs, present_runs
from pagemerge.find.process import Process, explain
from pagemerge.find.stable import Stretch
from pagemerge.linux import domain
from pagemerge.linux.aside import readers
from pagemerge.linux.maps import Devices, Mapping, devices
from pagemerge.linux.maps import mappings as maps_of
from pagemerge.linux.process import ksm_stat
from pagemerge.linux.smaps import marked
from pagemerge.model import PAGE_SIZE

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Bytes = NDArray[np.uint8]

STEP = pages_of.MOST // 2
"""Pages of a piece: 256 MiB, about 40 ms; a piece has less than twice as many."""

MEMORYLESS = "it has no memory of its own (kernel thread or zombie)"


class Piece(NamedTuple):
    """What was found out about consecutive pages of a source."""

    digests: UInt64s
    """u64[k]: their digests; ``ABSENT`` for a page that could not be read."""
    frames: UInt64s
    """u64[k]: the names of their frames (see ``tally.shared_frames``)."""
    bytes_read: int


class Source(Protocol):
    """A source of pages that can be compared with those of other sources."""

    @property
    def name(self) -> str:
        """Its name for people; print it through ``text.plain`` only."""

    @property
    def domain(self) -> Hashable:
        """Its trust domain: pages are compared inside it only."""

    @property
    def error(self) -> str:
        """Why the look at it failed, or did not come to its end; empty if it did."""

    @property
    def total(self) -> int:
        """Number of pages to look at."""

    @property
    def markable(self) -> NDArray[np.bool_]:
        """The pages that the user engine could be given: bool[total]."""

    def read(self, seed: int, threads: int) -> Iterator[Piece]:
        """Read all pages in order, less than ``2 * STEP`` at a time, with ``threads`` threads.

        The arrays of a piece are valid until the next one. If the source goes away, this ends early
        and ``error`` says why; then its pages count as absent.
        """

    def contents(self, indices: Int64s) -> Bytes:
        """Read the bytes of the pages with these indices (int64[n], ascending): u8[n, 4096].

        Pages that cannot be read are zeros.
        """


@runtime_checkable
class Framed(Protocol):
    """A source that can name the frames of single pages."""

    def frames(self, indices: Int64s, digests: UInt64s) -> UInt64s:
        """Name the frames of the pages with these indices (int64[n]) as ``Piece.frames``: u64[n].

        ``digests``: u64[n], those of these pages. Pages that are not there have no frame.
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
    domain: Hashable = None
    """Its trust domain: ``linux.domain.Domain``."""
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

    def read(self, seed: int, threads: int) -> Iterator[Piece]:
        """Read as ``Source.read``."""
        pid = self.process.pid
        try:
            for starts, pages in _steps(self.starts, self.pages):
                found = pages_of.digests(pid, starts, pages, seed, threads)
                digests, frames, read, unreadable = found
                self.unreadable += unreadable
                yield Piece(digests, frames, read)
        except PagemergeError as error:
            self.error = explain(error, self.process)

    def contents(self, indices: Int64s) -> Bytes:
        """Read as ``Source.contents``: pages that are present, without copying what is shared."""
        data = np.zeros((len(indices), PAGE_SIZE), np.uint8)
        with suppress(PagemergeError):  # the process has ended, or keeps us waiting
            addresses, entries = self._page_map(indices)
            there = np.flatnonzero(entries & tally.PRESENT)
            pages_of.copy(self.process.pid, addresses[there], data, there)
        return data

    def frames(self, indices: Int64s, digests: UInt64s) -> UInt64s:
        """Name frames as ``Framed.frames``; none if the process has ended."""
        with suppress(PagemergeError):
            return tally.shared_frames(self._page_map(indices)[1], digests)
        return np.full(len(indices), _core.ABSENT, np.uint64)

    def _page_map(self, indices: Int64s) -> tuple[UInt64s, UInt64s]:
        """Return the addresses of pages and their raw pagemap entries: u64[n] each."""
        ends = np.cumsum(self.pages.astype(np.int64))
        run = np.searchsorted(ends, indices, side="right")
        skipped = indices - (ends[run] - self.pages[run].astype(np.int64))
        addresses = self.starts[run] + skipped.astype(np.uint64) * np.uint64(PAGE_SIZE)
        return addresses, pages_of.entries(self.process.pid, addresses)

    def addresses(self) -> UInt64s:
        """Return the address of each page, ascending: u64[total]."""
        pages = self.pages.astype(np.int64)
        first = np.repeat(np.cumsum(pages) - pages, pages)
        inside = (np.arange(len(first)) - first).astype(np.uint64)
        return np.repeat(self.starts, pages) + inside * np.uint64(PAGE_SIZE)


def locate(process: Process) -> ProcessSource:
    """Find all pages of ``process`` that can be merged; count those that are merged already, and
    those that cannot be merged."""
    own = domain.namespaces("self")
    source = _locate(process, _mapping_runs)
    source.domain = domain.of_process(process.pid, process.uid, own)
    return source


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


def located(
    processes: Sequence[Process], how: Callable[[Process], ProcessSource] = locate
) -> list[ProcessSource]:
    """Find the pages of processes, each as ``how``, a function of this module, does.

    Nothing is raised for one that has ended, denies access, or keeps us waiting: it has an
    ``error``.
    """
    pids = [process.pid for process in processes]
    found = readers.each(how, pids, [(process,) for process in processes])
    return [
        _unread(process, one) if isinstance(one, PagemergeError) else one
        for process, one in zip(processes, found, strict=True)
    ]


def _unread(process: Process, error: PagemergeError) -> ProcessSource:
    denied = isinstance(error, AccessDenied)
    return ProcessSource(process, error=explain(error, process), denied=denied)


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
        source.ineligible[why] += PAGE_SIZE * int(
            present_runs(pid, start, end, anonymous=False)[1].sum()
        )
        return NOTHING
    runs = present_runs(pid, start, end, anonymous=bool(mapping.inode))
    if mapping.slab:
        source.stretches.append(Stretch.of(mapping, *runs))
    elif mapping.inode:
        unchanged = int(present_runs(pid, start, end, anonymous=False)[1].sum()) - int(
            runs[1].sum()
        )
        source.ineligible[eligible.FILE_PAGES] += PAGE_SIZE * max(unchanged, 0)
    return runs


def _private_runs(source: ProcessSource, mapping: Mapping, known: Devices) -> Runs:
    """Find runs of ``mapping`` that ksmd would look at."""
    if mapping.slab or eligible.obstacle(mapping, known):
        return NOTHING
    pid, start, end = source.process.pid, mapping.start, mapping.end
    return present_runs(pid, start, end, anonymous=bool(mapping.inode))


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
