"""Counts equal pages of several processes of one trust domain: pure functions on arrays.

Terms: a *copy* is a page of a process with some content. Several copies may lie in one physical
*frame* already (after fork, or merged). One frame of each content has to stay, except for zeros,
whose frame the kernel keeps anyway. So with c copies in f frames merging frees f - 1 frames, and
c - f copies have been saved before. For each content other than zeros, then summed:

    c - 1  =  duplicates within (copies beyond the first in their process)
            + duplicates across (processes beyond the first)
    saveable  =  zeros + within + across - already shared

The saveable part is split in the same way, by counting one page of each frame.

Arrays of one element a page are few and small: beside the digests and the names of the frames,
``tally`` needs two marks, and a part of the keys at a time (``groups.parts``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ABSENT, ZERO
from pagemerge.find.groups import parts, steps
from pagemerge.model import Groups

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

FRAME = np.uint64((1 << 55) - 1)
EXCLUSIVE = np.uint64(1 << 56)
PRESENT = np.uint64(1 << 63)
SPREAD = np.uint64(0x9E3779B97F4A7C15)

BATCH = 1 << 15
"""Pages that are counted at a time."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers of pages, over all processes."""

    pages: int = 0
    """Pages that were looked at."""
    zero_pages: int = 0
    """Pages with all bytes zero."""
    duplicate_pages_within: int = 0
    """Pages that are not zero, beyond the first with their content in their process."""
    duplicate_pages_across: int = 0
    """For each content in several processes, one page for each process beyond the first."""
    already_shared_pages: int = 0
    """Pages beyond the first in their physical frame, zeros too: nothing is left to save."""
    saveable_zero_pages: int = 0
    """Physical frames of zeros that merging would free."""
    saveable_within_pages: int = 0
    """Physical frames of duplicates within a process that merging would free."""
    saveable_across_pages: int = 0
    """Physical frames of duplicates across processes that merging would free."""
    markable_pages: int = 0
    """Frames of these three that the user engine could free at most: in anonymous mappings only."""

    @property
    def saveable_pages(self) -> int:
        """All physical frames that merging would free."""
        return self.saveable_zero_pages + self.saveable_within_pages + self.saveable_across_pages

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The result of ``tally``; arrays have one element for each process."""

    totals: Totals
    pages: Int64s
    zero_pages: Int64s
    duplicate_pages: Int64s
    """Copies of contents that occur at least twice, without zeros."""
    shared_pages: Int64s
    """Pages in a frame of several pages: merging can save only one page of such a frame."""
    gain: NDArray[np.float64]
    """Frames that merging would free, divided evenly among the copies; sums to the total."""


def shared_frames(entries: UInt64s, digests: UInt64s) -> UInt64s:
    """Name the frames of pages that other processes may map too: u64[n], ``ABSENT`` for others.

    ``entries`` are raw pagemap entries. If the kernel tells the page frame number (CAP_SYS_ADMIN),
    the name is made from that. Otherwise pages that are not exclusive and have the same content
    count as one frame: that is seldom wrong, and then the estimate of savings is too low.
    """
    shared = (entries & (PRESENT | EXCLUSIVE)) == PRESENT
    if not shared.any():
        return np.full(len(entries), ABSENT, np.uint64)
    frame = entries & FRAME
    # SPREAD is odd, so that frames keep different names. It spreads the numbers over the upper
    # bits, at which grouping looks first.
    name = frame * SPREAD if frame.any() else ~digests
    return np.where(shared & (digests != ABSENT), name, np.uint64(ABSENT))


def tally(
    digests: UInt64s, frames: UInt64s, offsets: Int64s, markable: Bools | None = None
) -> Tally:
    """Count the pages of processes of one domain.

    ``digests`` and ``frames`` (from ``shared_frames``) are u64[n], process after process;
    process i has the pages from ``offsets[i]`` to ``offsets[i + 1]`` (int64[processes + 1]).
    ``markable``, bool[n]: pages that the user engine could be given (default: all).
    """
    counts = _Counts(offsets, np.zeros(len(digests), np.bool_), markable)
    counts.add_frames(frames)
    counts.add_zeros(digests)
    for groups in parts(digests):
        counts.add(groups)
        del groups  # before the next part is made
    return counts.tally()


def gains(digests: UInt64s, frames: UInt64s, zero_pages: bool) -> NDArray[np.float32]:
    """Divide the frames that merging would free among the copies of each content: f32[n].

    A page gets 0 if merging it gains nothing: its content is unique, or all its copies lie in one
    frame already. Zero pages need no partner; with ``zero_pages`` false they gain nothing.
    """
    known_frames = mapped_before(frames)
    gain = np.zeros(len(digests), np.float32)
    for groups in parts(digests):
        for members, starts in _batches(groups):
            copies = np.diff(starts)
            freed = _freed(_sums(~known_frames[members], starts))
            gain[members] = np.repeat(freed / copies, copies)
    if zero_pages:
        zero = digests == ZERO
        if zeros := np.count_nonzero(zero):
            gain[zero] = np.count_nonzero(zero & ~known_frames) / zeros
    return gain


@dataclass(slots=True, eq=False)
class _Counts:
    """Adds up a ``Tally``; the arrays of counts have one element for each process."""

    offsets: Int64s
    mapped_before: Bools
    """bool[n]: pages in a frame that an earlier page of the array has, too."""
    markable: Bools | None
    pages: Int64s = field(init=False)
    zeros: Int64s = field(init=False)
    duplicates: Int64s = field(init=False)
    shared: Int64s = field(init=False)
    gain: NDArray[np.float64] = field(init=False)
    copies: int = 0
    """Of contents that occur at least twice, in all processes, without zeros."""
    contents: int = 0
    holders: int = 0
    """Pairs of such a content and a process that has a copy of it."""
    frames: int = 0
    """Frames of ``copies``."""
    contents_in_frames: int = 0
    """Contents that have a frame; others have changed since their frame was looked at."""
    holders_of_frames: int = 0
    """As ``holders``, of one page of each frame."""
    saved_zeros: int = 0
    """Frames of zeros."""
    markable_zeros: int = 0
    """Frames of zeros in markable pages."""
    part_of_markable: float = 0.0
    """Frames of other contents that merging the markable pages would free."""

    def __post_init__(self) -> None:
        shape = len(self.offsets) - 1
        self.pages, self.zeros, self.duplicates, self.shared = np.zeros((4, shape), np.int64)
        self.gain = np.zeros(shape)

    def add_frames(self, frames: UInt64s) -> None:
        """Find which pages of a frame are not its first; this comes before everything else."""
        for groups in parts(frames):
            _mark_mapped_before(self.mapped_before, groups)
            for here in steps(len(groups.members)):
                self.shared += self._per_process(groups.members[here])
            del groups

    def add_zeros(self, digests: UInt64s) -> None:
        """Count the pages that were looked at, and those of zeros."""
        for process, (start, end) in enumerate(pairwise(self.offsets.tolist())):
            for here in steps(end, start):
                zero = digests[here] == ZERO
                saved = zero & ~self.mapped_before[here]
                self.pages[process] += np.count_nonzero(digests[here])
                self.zeros[process] += np.count_nonzero(zero)
                self.gain[process] += np.count_nonzero(saved)
                if self.markable is not None:
                    saved &= self.markable[here]
                self.markable_zeros += int(np.count_nonzero(saved))
        self.saved_zeros = int(self.gain.sum())

    def add(self, groups: Groups) -> None:
        """Count groups of equal pages."""
        for members, starts in _batches(groups):
            if len(members) > BATCH:
                self._add_frequent(members)
            else:
                self._add_batch(members, starts)

    def _add_batch(self, members: Int64s, starts: Int64s) -> None:
        """Count some groups; arrays as in ``Groups``."""
        first = ~self.mapped_before[members]
        owner, copies = self._owner(members), np.diff(starts)
        frames = _sums(first, starts)
        part = np.repeat(_freed(frames) / copies, copies)
        self._add(len(members), len(copies), _holders(owner, starts))
        # One page of each frame, and of these the processes that have one.
        bounds = np.cumsum(np.append(0, frames[frames > 0]))
        self._add_frames(int(bounds[-1]), len(bounds) - 1, _holders(owner[first], bounds))
        self.duplicates += np.bincount(owner, minlength=len(self.gain))
        self.gain += np.bincount(owner, weights=part, minlength=len(self.gain))
        marked = part if self.markable is None else part[self.markable[members]]
        self.part_of_markable += float(marked.sum())

    def _add_frequent(self, members: Int64s) -> None:
        """Count one group of any size."""
        mine, frames_of_mine = np.zeros((2, len(self.gain)), np.int64)
        marked = 0
        for here in steps(len(members)):
            part = members[here]
            mine += self._per_process(part)
            frames_of_mine += self._per_process(part[~self.mapped_before[part]])
            marked += len(part) if self.markable is None else int(self.markable[part].sum())
        frames = int(frames_of_mine.sum())
        self._add(len(members), 1, int(np.count_nonzero(mine)))
        self._add_frames(frames, min(frames, 1), int(np.count_nonzero(frames_of_mine)))
        share = max(frames - 1, 0) / len(members)
        self.duplicates += mine
        self.gain += share * mine
        self.part_of_markable += share * marked

    def tally(self) -> Tally:
        """Return what was counted."""
        totals = Totals(
            pages=int(self.pages.sum()),
            zero_pages=int(self.zeros.sum()),
            duplicate_pages_within=self.copies - self.holders,
            duplicate_pages_across=self.holders - self.contents,
            already_shared_pages=int(np.count_nonzero(self.mapped_before)),
            saveable_zero_pages=self.saved_zeros,
            saveable_within_pages=self.frames - self.holders_of_frames,
            saveable_across_pages=self.holders_of_frames - self.contents_in_frames,
            markable_pages=self.markable_zeros + int(self.part_of_markable + 1e-6),
        )
        return Tally(totals, self.pages, self.zeros, self.duplicates, self.shared, self.gain)

    def _add(self, copies: int, contents: int, holders: int) -> None:
        self.copies += copies
        self.contents += contents
        self.holders += holders

    def _add_frames(self, frames: int, contents: int, holders: int) -> None:
        self.frames += frames
        self.contents_in_frames += contents
        self.holders_of_frames += holders

    def _owner(self, members: Int64s) -> Int64s:
        """Return the process of each page."""
        return np.searchsorted(self.offsets, members, side="right") - 1

    def _per_process(self, members: Int64s) -> Int64s:
        """Count pages of each process."""
        return np.bincount(self._owner(members), minlength=len(self.gain))


def _batches(groups: Groups) -> Iterator[tuple[Int64s, Int64s]]:
    """Cut groups into batches (arrays as in ``Groups``) of at most ``BATCH`` members, or of one
    group with more."""
    starts, at = groups.starts, 0
    while at < len(groups):
        end = int(np.searchsorted(starts, starts[at] + BATCH, side="right")) - 1
        end = max(end, at + 1)
        yield groups.members[starts[at] : starts[end]], starts[at : end + 1] - starts[at]
        at = end


def mapped_before(frames: UInt64s) -> Bools:
    """Find the pages in a frame (u64[n]) that an earlier page of the array has, too: bool[n]."""
    found = np.zeros(len(frames), np.bool_)
    for groups in parts(frames):
        _mark_mapped_before(found, groups)
        del groups
    return found


def _mark_mapped_before(mapped_before: Bools, same: Groups) -> None:
    """Mark the pages in a frame that an earlier page of the array has, too.

    ``same``: pages grouped by frame.
    """
    mapped_before[same.members] = True
    mapped_before[same.members[same.starts[:-1]]] = False


def _freed(frames: Int64s) -> Int64s:
    """Count the frames that merging frees in each group, which has so many: int64[groups]."""
    # If a page changed between the looks at content and frame, a group may have no frame left.
    freed: Int64s = np.maximum(frames - 1, 0)
    return freed


def _holders(owner: Int64s, starts: Int64s) -> int:
    """Count pairs of a group and a process that has a copy of it.

    The members of a group ascend, so their owners do, too.
    """
    changes = np.ones(len(owner), np.bool_)
    changes[1:] = owner[1:] != owner[:-1]
    changes[starts[:-1]] = True
    return int(changes.sum())


def _sums(mask: NDArray[np.bool_], bounds: Int64s) -> Int64s:
    """Count the set elements between each two neighbouring bounds, which ascend.

    Returns int64[bounds - 1].
    """
    before = np.zeros(len(mask) + 1, np.int64)
    np.cumsum(mask, out=before[1:])
    result: Int64s = before[bounds[1:]] - before[bounds[:-1]]
    return result
