"""Says what the duplicated pages are: the contents that save most, by kind, holder and mapping.

Kinds: zeros; one repeated word; a page of a file that some of the processes has open or mapped;
text; pointers (a heap); unknown. A page of a file is found only if it lies in memory as in the
file: at a page boundary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ZERO, digest
from pagemerge.estimate import classify
from pagemerge.estimate.files import CachedFile, cached
from pagemerge.find import tally
from pagemerge.find.groups import duplicates
from pagemerge.find.look import Look
from pagemerge.find.sources import ProcessSource, Source
from pagemerge.linux.maps import Mapping
from pagemerge.model import PAGE_SIZE

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

KINDS = ("repeated word", "text", "pointers", "unknown", "file", "not read")
"""The kinds of content, in the order of ``classify``; the last is of contents that were too many,
or that changed during the look."""
FILE, NOT_READ = 4, 5
ZEROS = "zeros"

PLACES = ("anonymous", "heap", "stack", "guest memory", "changed file pages", "image")
"""The kinds of mapping that a page lies in."""

MOST_CONTENTS = 1 << 16
"""Contents of a domain that are read and told apart, those that save most."""
_AT_ONCE = 1 << 12
_GUEST_BYTES = 16 << 20
"""An anonymous mapping of a hypervisor from this size on is its guest's memory."""
_HYPERVISORS = ("qemu", "kvm", "firecracker", "cloud-hyperviso", "crosvm")
_SAMPLE = 48
"""Bytes of a page that are kept to be shown."""


@dataclass(frozen=True, slots=True)
class Content:
    """One content that lies in memory more than once."""

    kind: str
    copies: int
    saveable_pages: int
    """Frames that merging its copies frees."""
    domain: str
    file: str
    """Path of the file that has this page; print it through ``text.plain`` only."""
    file_page: int
    """Number of the page in the file."""
    build_id: str
    """Of an ELF file, in hexadecimal."""
    sample: bytes
    """The first bytes of the page; empty if it was not read."""
    holders: tuple[tuple[str, int], ...]
    """Names of the processes with most copies, and how many each has."""
    places: tuple[tuple[str, int], ...]
    """Kinds of mapping, and copies in each."""


@dataclass(slots=True)
class Kind:
    """All contents of one kind."""

    name: str
    contents: int = 0
    copies: int = 0
    saveable_pages: int = 0
    holders: Counter[str] = field(default_factory=Counter)
    """Names of processes, and copies that those of this name have."""
    places: Counter[str] = field(default_factory=Counter)
    """Kinds of mapping, and copies in each."""
    files: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Path and build id of a file, and frames that merging its pages frees."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The kinds, those that save most first, and the contents that save most."""

    kinds: tuple[Kind, ...]
    top: tuple[Content, ...]


def contents(found: Look, top: int = 20) -> Contents:
    """Tell the duplicates of a look apart; ``top``: how many contents are listed one by one."""
    pids = [it.process.pid for it in found.sources if isinstance(it, ProcessSource)]
    files = _Files(cached(pids, found.seed))
    kinds: dict[str, Kind] = {}
    listed: list[Content] = []
    for domain in found.domains():
        part = _Domain(domain, files)
        part.count(kinds)
        listed += part.listed(top)
    listed.sort(key=lambda content: -content.saveable_pages)
    ordered = sorted(kinds.values(), key=lambda kind: -kind.saveable_pages)
    return Contents(tuple(it for it in ordered if it.copies), tuple(listed[:top]))


class _Files:
    """All pages of some files, by digest."""

    def __init__(self, files: Iterable[CachedFile]) -> None:
        self.names: list[tuple[str, str]] = []
        digests, pages, whose = [], [], []
        for number, file in enumerate(files):
            there = file.digests > ZERO
            digests.append(file.digests[there])
            pages.append(file.pages[there])
            whose.append(np.full(len(pages[-1]), number, np.int64))
            self.names.append((file.path, file.build_id))
        joined = np.concatenate(digests or [np.empty(0, np.uint64)])
        order = np.argsort(joined, kind="stable")  # the first file that has a page counts
        self._digests = joined[order]
        self._pages = np.concatenate(pages or [np.empty(0, np.int64)])[order]
        self._whose = np.concatenate(whose or [np.empty(0, np.int64)])[order]

    def find(self, digests: UInt64s) -> tuple[Int64s, Int64s]:
        """Return the file and the page in it of each digest, int64[n]; -1 if no file has it."""
        if not len(self._digests):
            return (nothing := np.full(len(digests), -1, np.int64)), nothing
        at = np.minimum(np.searchsorted(self._digests, digests), len(self._digests) - 1)
        same = self._digests[at] == digests
        return np.where(same, self._whose[at], -1), np.where(same, self._pages[at], -1)


class _Domain:
    """The duplicates of one trust domain."""

    def __init__(self, found: Look, files: _Files) -> None:
        self._look, self._files = found, files
        self._groups = groups = duplicates(found.digests)
        self._copies = np.diff(groups.starts)
        gain = tally.gains(found.digests, found.frames, True)
        zero = found.digests == ZERO
        self._zero, self._zero_saves = np.flatnonzero(zero), round(float(gain[zero].sum()))
        first = groups.members[groups.starts[:-1]]
        self._saves = np.rint(gain[first].astype(np.float64) * self._copies).astype(np.int64)
        self._place = _places(found.sources)
        self._names = [source.name for source in found.sources]
        order = np.lexsort((first, -self._saves))  # equal ones as they lie in memory
        self._order = order[self._saves[order] > 0]
        read = self._order[:MOST_CONTENTS]
        self._file, self._file_page = files.find(found.digests[first])
        self._kind = np.full(len(groups), NOT_READ, np.int8)
        self._samples: dict[int, bytes] = {}
        self._read(read[np.argsort(first[read])], first)
        self._kind[self._file >= 0] = FILE

    def _read(self, chosen: Int64s, first: Int64s) -> None:
        """Read the first copy of each of the ``chosen`` groups, and tell them apart."""
        for at in range(0, len(chosen), _AT_ONCE):
            some = chosen[at : at + _AT_ONCE]
            data = _contents(self._look, first[some])
            digests = np.empty(len(data), np.uint64)
            digest(data.reshape(-1), self._look.seed, digests)
            same = digests == self._look.digests[first[some]]
            self._kind[some[same]] = classify.classify(data)[same]
            for group in some[same & np.isin(some, self._order[:100])].tolist():
                row = int(np.flatnonzero(some == group)[0])
                self._samples[group] = data[row, :_SAMPLE].tobytes()

    def count(self, kinds: dict[str, Kind]) -> None:
        """Add up the kinds."""
        zeros = kinds.setdefault(ZEROS, Kind(ZEROS))
        zeros.contents = 1
        self._add(zeros, self._zero, self._zero_saves)
        group = np.repeat(np.arange(len(self._groups)), self._copies)
        saving = self._saves > 0
        for number, name in enumerate(KINDS):
            chosen = (self._kind == number) & saving
            if chosen.any():
                kind = kinds.setdefault(name, Kind(name))
                kind.contents += int(chosen.sum())
                pages = self._groups.members[chosen[group]]
                self._add(kind, pages, int(self._saves[chosen].sum()))
        files = kinds.get(KINDS[FILE])
        for at in np.flatnonzero((self._kind == FILE) & saving).tolist():
            assert files is not None
            files.files[self._files.names[self._file[at]]] += int(self._saves[at])

    def _add(self, kind: Kind, pages: Int64s, saves: int) -> None:
        kind.copies += len(pages)
        kind.saveable_pages += saves
        kind.places.update(dict(self._places_of(pages)))
        kind.holders.update(dict(self._holders_of(pages, len(self._names))))

    def listed(self, top: int) -> Iterator[Content]:
        """Yield the contents that save most."""
        if self._zero_saves:
            yield self._content(ZEROS, self._zero, self._zero_saves, bytes(_SAMPLE))
        for group in self._order[:top].tolist():
            pages = self._groups.members[slice(*self._groups.starts[group : group + 2].tolist())]
            number = int(self._file[group])
            yield self._content(
                KINDS[self._kind[group]],
                pages,
                int(self._saves[group]),
                self._samples.get(group, b""),
                self._files.names[number] if number >= 0 else ("", ""),
                int(self._file_page[group]),
            )

    def _content(
        self,
        kind: str,
        pages: Int64s,
        saves: int,
        sample: bytes,
        file: tuple[str, str] = ("", ""),
        page: int = -1,
    ) -> Content:
        domain = str(self._look.sources[0].domain)
        holders, places = self._holders_of(pages, 5), self._places_of(pages)
        path, build_id = file
        return Content(
            kind, len(pages), saves, domain, path, page, build_id, sample, holders, places
        )

    def _places_of(self, pages: Int64s) -> tuple[tuple[str, int], ...]:
        counts = np.bincount(self._place[pages], minlength=len(PLACES)).tolist()
        return tuple(sorted(_counted(PLACES, counts), key=lambda it: -it[1]))

    def _holders_of(self, pages: Int64s, most: int) -> tuple[tuple[str, int], ...]:
        owner = np.searchsorted(self._look.offsets, pages, side="right") - 1
        counts = np.bincount(owner, minlength=len(self._names)).tolist()
        found = Counter[str]()
        for name, number in _counted(self._names, counts):
            found[name] += number
        return tuple(found.most_common(most))


def _counted(names: Sequence[str], counts: list[int]) -> Iterator[tuple[str, int]]:
    return ((name, number) for name, number in zip(names, counts, strict=True) if number)


def _contents(found: Look, pages: Int64s) -> Bytes:
    """Read pages of a look by their index, ascending: u8[n, 4096]."""
    bounds = np.searchsorted(pages, found.offsets)
    parts = [
        source.contents(pages[first:end] - start)
        for source, start, first, end in zip(
            found.sources,
            found.offsets.tolist(),
            bounds.tolist(),
            bounds[1:].tolist(),
            strict=False,
        )
        if first < end
    ]
    return np.concatenate(parts or [np.empty((0, PAGE_SIZE), np.uint8)])


def _places(sources: Sequence[Source]) -> NDArray[np.uint8]:
    """Return the kind of mapping of each page, an index of ``PLACES``: u8[pages]."""
    parts = []
    for source in sources:
        if isinstance(source, ProcessSource):
            kinds = [_place(source.name, mapping) for mapping in source.mappings]
            runs = np.repeat(np.array(kinds, np.uint8), source.runs)
            parts.append(np.repeat(runs, source.pages.astype(np.int64)))
        else:
            parts.append(np.full(source.total, PLACES.index("image"), np.uint8))
    return np.concatenate(parts or [np.empty(0, np.uint8)])


def _place(program: str, mapping: Mapping) -> int:
    if mapping.path == "[heap]":
        name = "heap"
    elif mapping.path.startswith("[stack"):
        name = "stack"
    elif mapping.inode:
        name = "changed file pages"
    elif program.startswith(_HYPERVISORS) and mapping.end - mapping.start >= _GUEST_BYTES:
        name = "guest memory"
    else:
        name = "anonymous"
    return PLACES.index(name)
