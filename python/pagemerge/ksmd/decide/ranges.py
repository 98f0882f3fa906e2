"""Decides which ranges of a process are worth marking for ksmd: pure functions on arrays.

Marking a range splits its mapping into up to three. Marking too many pages has ksmd look at pages
in vain. So duplicates that lie close to each other become one range with the pages between them, as
long as enough pages of the range are duplicates. If not enough are, the range is cut finer, down to
single stretches. A range near the edge of its mapping is extended to the edge, because that costs
one mapping less.

``BRIDGE`` says how close is close: a mapping takes 350 to 530 bytes of the kernel (measured on
Linux 6.18), a page that ksmd looks at in vain takes 64, and each bridged gap saves two mappings.
``SHARE`` says how many duplicates are enough: with it, ksmd looks at no more than twice the pages
that merge, wherever they lie. Of memory with 30% duplicates this marks, in pages and in mappings
for each 1000 pages of it:

| share | runs of 153 | clumps of 1 to 63 | of 1 to 7 | single pages |
|---|---|---|---|---|
| 0.2 | 30%, 4 | 31%, 13 | 60%, 30 | 98%, 2 |
| 0.4 | 30%, 4 | 31%, 13 | 54%, 41 | 58%, 133 |
| 0.5 | 30%, 4 | 31%, 13 | 45%, 57 | 47%, 201 |
| 0.6 | 30%, 4 | 31%, 13 | 38%, 75 | 39%, 278 |

Counting duplicates in blocks, and marking blocks over a threshold, is worse: blocks of 512 pages
mark all or nothing of runs of 153, and blocks of 16 with a threshold of 0.2 mark 75% of the memory
with single pages and still lose 13% of these pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagemerge.find.evidence import Evidence
from pagemerge.ksmd.model import Selection
from pagemerge.model import PAGE_SIZE

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SHARE = 0.5
"""Least part of a range that is duplicates."""
BRIDGE = 16
"""Pages of the widest gap that is marked too, present or not: any page may appear in a hole."""
LEAST_SHARE = 0.05
"""The lowest share that is tried if there are too few mappings."""
RESERVE = 8
"""One in so many mappings of a process's limit is kept free for the process itself."""


@dataclass(frozen=True, slots=True, eq=False)
class _Ranges:
    """Ranges to mark, in order of address; arrays of one element each."""

    first: I64
    """Index of the first stretch of the range."""
    last: I64
    """Index of the last stretch of the range."""
    to_start: Bools
    """True if the range begins where its mapping begins."""
    to_end: Bools

    def __getitem__(self, kept: Bools) -> _Ranges:
        return _Ranges(self.first[kept], self.last[kept], self.to_start[kept], self.to_end[kept])

    @property
    def cost(self) -> I64:
        """Mappings that each range adds: one before and one behind it, if pages are left there."""
        cost: I64 = 2 - self.to_start.astype(np.int64) - self.to_end
        return cost


def choose(
    evidence: Evidence,
    *,
    share: float = SHARE,
    bridge: int = BRIDGE,
    most: int | None = None,
    whole: bool = False,
) -> Selection:
    """Choose ranges of a process; ``share`` or more of the pages of each range are duplicates.

    ``bridge``: pages of the widest gap to bridge; ``most``: mappings that may be added (as by
    ``budget``). If these do not suffice, twice the gap and half the share are tried, and so on,
    because looking in vain costs less than not merging. At last the ranges that gain least are left
    out.

    ``whole``: choose only whole mappings, so that none is split. mremap(2) refuses to grow a split
    mapping (EFAULT); realloc of glibc copies then, but programs that call mremap may not.
    """
    mapping = np.searchsorted(evidence.start, evidence.address, side="right") - 1
    if whole:
        return _selection(evidence, mapping, _whole(evidence, mapping, share))
    ranges = _cut(evidence, mapping, share, bridge)
    if most is not None:
        while int(ranges.cost.sum()) > most and share / 2 >= LEAST_SHARE:
            share, bridge = share / 2, bridge * 2
            ranges = _cut(evidence, mapping, share, bridge)
        ranges = _within(evidence, ranges, most)
    return _selection(evidence, mapping, ranges)


def budget(evidence: Evidence, limit: int) -> int:
    """Return the mappings that may be added to a process; ``limit`` is vm.max_map_count
    (proc_sys_vm(5))."""
    return max(limit - limit // RESERVE - evidence.mappings, 0)


def _whole(evidence: Evidence, mapping: I64, share: float) -> _Ranges:
    """Return the mappings of which at least ``share`` of the pages are duplicates."""
    first = np.flatnonzero(np.diff(mapping, prepend=-1))
    last = np.append(first[1:], len(mapping))[: len(first)] - 1
    edge = np.ones(len(first), np.bool_)
    looked = np.diff(evidence.looked)[mapping[first]]
    return _Ranges(first, last, edge, edge)[_duplicates(evidence, first, last) >= share * looked]


def _cut(evidence: Evidence, mapping: I64, share: float, bridge: int) -> _Ranges:
    """Put all stretches into ranges of at least ``share``: the widest gaps first, then finer."""
    found = list(_finer(evidence, mapping, share, bridge))
    first = np.concatenate([first for first, _ in found])
    last = np.concatenate([last for _, last in found])
    order = np.argsort(first)
    return _drawn_to_edges(evidence, mapping, first[order], last[order], share, bridge // 2)


def _finer(
    evidence: Evidence, mapping: I64, share: float, bridge: int
) -> Iterator[tuple[I64, I64]]:
    """Yield the first and last stretches of ranges, for each width of gap in order of address."""
    behind = evidence.address + evidence.pages.astype(np.uint64) * np.uint64(PAGE_SIZE)
    gap = np.zeros(len(mapping), np.uint64)
    gap[1:] = (evidence.address[1:] - behind[:-1]) // np.uint64(PAGE_SIZE)
    far = np.ones(len(mapping), np.bool_)
    far[1:] = mapping[1:] != mapping[:-1]
    until = np.append(0, np.cumsum(evidence.pages))
    todo = np.arange(len(mapping), dtype=np.int64)
    while True:
        # A stretch that began a range with wider gaps still does, so parts of two never join.
        at = np.flatnonzero(far[todo] | (gap[todo] > bridge))
        first, last = todo[at], todo[np.append(at[1:], len(todo)) - 1] if len(todo) else todo
        span = evidence.before[last] + evidence.pages[last] - evidence.before[first]
        enough = until[last + 1] - until[first] >= share * span
        if bridge == 0:
            enough[:] = True
        yield first[enough], last[enough]
        todo = todo[~np.repeat(enough, np.diff(np.append(at, len(todo))))]
        if bridge == 0:
            return
        bridge //= 2


def _drawn_to_edges(
    evidence: Evidence, mapping: I64, first: I64, last: I64, share: float, reach: int
) -> _Ranges:
    """Extend ranges to the edges of mappings, if these are near and the share stays enough."""
    start, behind = _extents(evidence, first, last)
    inside = mapping[first]
    pages, near = _duplicates(evidence, first, last), np.uint64(reach * PAGE_SIZE)
    begin, end = evidence.before[first], evidence.before[last] + evidence.pages[last]
    alone = np.ones(len(first) + 1, np.bool_)
    alone[1:-1] = inside[1:] != inside[:-1]
    to_start = alone[:-1] & (start - evidence.start[inside] <= near)
    to_start &= pages >= share * (end - evidence.looked[inside])
    begin = np.where(to_start, evidence.looked[inside], begin)
    to_end = alone[1:] & (evidence.end[inside] - behind <= near)
    to_end &= pages >= share * (evidence.looked[inside + 1] - begin)
    return _Ranges(first, last, to_start, to_end)


def _within(evidence: Evidence, ranges: _Ranges, most: int) -> _Ranges:
    """Return the ranges that gain most, as many as the mappings suffice for."""
    cost = ranges.cost
    sums = np.append(0.0, np.cumsum(evidence.gain, dtype=np.float64))
    order = np.argsort(-(sums[ranges.last + 1] - sums[ranges.first]), kind="stable")
    kept = np.zeros(len(order), np.bool_)
    kept[order] = np.cumsum(cost[order]) <= most
    return ranges[kept | (cost == 0)]


def _selection(evidence: Evidence, mapping: I64, ranges: _Ranges) -> Selection:
    first, last, inside = ranges.first, ranges.last, mapping[ranges.first]
    start, end = _extents(evidence, first, last)
    begin, behind = evidence.before[first], evidence.before[last] + evidence.pages[last]
    begin = np.where(ranges.to_start, evidence.looked[inside], begin)
    behind = np.where(ranges.to_end, evidence.looked[inside + 1], behind)
    duplicates = int(_duplicates(evidence, first, last).sum())
    sums = np.append(0.0, np.cumsum(evidence.gain, dtype=np.float64))
    return Selection(
        pid=evidence.pid,
        name=evidence.name,
        start=np.where(ranges.to_start, evidence.start[inside], start),
        end=np.where(ranges.to_end, evidence.end[inside], end),
        looked=int(evidence.looked[-1]),
        marked=int((behind - begin).sum()),
        duplicates=duplicates,
        left_out=int(evidence.pages.sum()) - duplicates,
        gain=float((sums[last + 1] - sums[first]).sum()),
        mappings=int(ranges.cost.sum()),
        error=evidence.error,
    )


def _extents(evidence: Evidence, first: I64, last: I64) -> tuple[U64, U64]:
    """Return the address of the first byte, and the address behind the last, of the stretches of
    each range."""
    size = evidence.pages[last].astype(np.uint64) * np.uint64(PAGE_SIZE)
    return evidence.address[first], evidence.address[last] + size


def _duplicates(evidence: Evidence, first: I64, last: I64) -> I64:
    until = np.append(0, np.cumsum(evidence.pages))
    pages: I64 = until[last + 1] - until[first]
    return pages
