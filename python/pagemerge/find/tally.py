"""Counting equal pages of several processes of one trust domain: pure functions on arrays.

Words. A *copy* is a page of a process with some content; copies may lie in one physical *frame*
already (after fork, or merged). Of each content one frame has to stay, except of zeros, whose
frame the kernel keeps anyway. So with c copies in f frames merging frees f - 1 frames, and c - f
copies have been saved before. Per content other than zeros, then summed:

    c - 1  =  duplicates within (copies beyond the first in their process)
            + duplicates across (processes beyond the first)
    saveable  =  zeros + within + across - already shared

What is saveable is split in the same way, by counting one page of each frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ABSENT, ZERO
from pagemerge.find.groups import duplicates
from pagemerge.model import Groups

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]

FRAME = np.uint64((1 << 55) - 1)
EXCLUSIVE = np.uint64(1 << 56)
PRESENT = np.uint64(1 << 63)
SPREAD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Totals:
    """Pages, over all processes."""

    pages: int = 0
    """Looked at."""
    zero_pages: int = 0
    """All bytes zero."""
    duplicate_pages_within: int = 0
    """Not zero, and beyond the first of their content in their process."""
    duplicate_pages_across: int = 0
    """Of contents in several processes, one for each process beyond the first."""
    already_shared_pages: int = 0
    """Beyond the first in their physical frame, zeros too: nothing is left to save."""
    saveable_zero_pages: int = 0
    """Physical frames that merging would free, here of zeros."""
    saveable_within_pages: int = 0
    """The same of duplicates within a process."""
    saveable_across_pages: int = 0
    """The same of duplicates across processes."""
    markable_pages: int = 0
    """Of these three at most so many for the user engine: the rest is of no anonymous mapping."""

    @property
    def saveable_pages(self) -> int:
        """Physical frames that merging would free, in all."""
        return self.saveable_zero_pages + self.saveable_within_pages + self.saveable_across_pages

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """What ``tally`` counted; arrays have one element for each process."""

    totals: Totals
    pages: Int64s
    zero_pages: Int64s
    duplicate_pages: Int64s
    """Copies of contents that occur at least twice, zeros left out."""
    shared_pages: Int64s
    """Pages in a frame of several pages: merging saves nothing of all but one of them."""
    gain: NDArray[np.float64]
    """Frames that merging would free, dealt out evenly among the copies; sums to the total."""


def shared_frames(entries: UInt64s, digests: UInt64s) -> UInt64s:
    """Names for the frames of pages that others may map too, ``ABSENT`` for all others: u64[n].

    ``entries`` are raw pagemap entries. The name is the page frame number where the kernel tells
    it (CAP_SYS_ADMIN). Elsewhere, pages that are not exclusive and have the same content are
    taken for the same frame: seldom wrong, and then it promises too little.
    """
    frame = entries & FRAME
    known = bool(frame.any())
    shared = (entries & (PRESENT if known else PRESENT | EXCLUSIVE)) == PRESENT
    # Odd, so that frames keep different names: grouping looks at the upper bits first.
    name = frame * SPREAD if known else ~digests
    return np.where(shared & (digests != ABSENT), name, np.uint64(ABSENT))


def tally(
    digests: UInt64s, frames: UInt64s, offsets: Int64s, markable: NDArray[np.bool_] | None = None
) -> Tally:
    """Count the pages of processes of one domain.

    ``digests`` and ``frames`` (from ``shared_frames``) are u64[n], process after process;
    process i has the pages from ``offsets[i]`` to ``offsets[i + 1]`` (int64[processes + 1]).
    ``markable``, bool[n]: pages that the user engine could be given (default: all).
    """
    shared = duplicates(frames)
    mapped_before = _mapped_before(frames, shared)
    zero = digests == ZERO
    groups = duplicates(digests)
    copies = np.diff(groups.starts)
    owner = np.searchsorted(offsets, groups.members, side="right") - 1
    holders = _holders(owner, groups.starts)
    freed = _freed(groups, mapped_before)
    # One page of each frame, and of these the processes that have one.
    first = ~mapped_before[groups.members]
    frames_of = _sums(first, groups.starts)
    bounds = np.cumsum(np.append(0, frames_of[frames_of > 0]))
    holders_of_frames = _holders(owner[first], bounds)

    processes = len(offsets) - 1
    saved_zero, part = zero & ~mapped_before, np.repeat(freed / copies, copies)
    gain = _sums(saved_zero, offsets).astype(np.float64)
    gain += np.bincount(owner, weights=part, minlength=processes)
    if markable is None:
        markable = np.ones(len(digests), np.bool_)
    looked_at = _sums(digests != ABSENT, offsets)
    totals = Totals(
        pages=int(looked_at.sum()),
        zero_pages=int(zero.sum()),
        duplicate_pages_within=len(owner) - holders,
        duplicate_pages_across=holders - len(groups),
        already_shared_pages=int(mapped_before.sum()),
        saveable_zero_pages=int(saved_zero.sum()),
        saveable_within_pages=int(first.sum()) - holders_of_frames,
        saveable_across_pages=holders_of_frames - (len(bounds) - 1),
        markable_pages=int((saved_zero & markable).sum())
        + int(part[markable[groups.members]].sum() + 1e-6),
    )
    return Tally(
        totals,
        looked_at,
        _sums(zero, offsets),
        np.bincount(owner, minlength=processes).astype(np.int64),
        np.diff(np.searchsorted(np.sort(shared.members), offsets)),
        gain,
    )


def gains(digests: UInt64s, frames: UInt64s, zero_pages: bool) -> NDArray[np.float32]:
    """What merging would free, dealt out evenly among the copies of each content: f32[n], frames.

    0 for a page of which nothing is gained: its content is unique, or all its copies lie in one
    frame already. Zero pages need no partner; with ``zero_pages`` false they gain nothing.
    """
    mapped_before = _mapped_before(frames, duplicates(frames))
    groups = duplicates(digests)
    copies = np.diff(groups.starts)
    gain = np.zeros(len(digests), np.float32)
    gain[groups.members] = np.repeat(_freed(groups, mapped_before) / copies, copies)
    zero = digests == ZERO
    if zero_pages and zero.any():
        gain[zero] = np.count_nonzero(zero & ~mapped_before) / np.count_nonzero(zero)
    return gain


def _freed(groups: Groups, mapped_before: NDArray[np.bool_]) -> Int64s:
    """Frames that merging each group would free: int64[groups]."""
    # A page that changed between the looks at content and frame may leave a group without any.
    freed: Int64s = np.maximum(_sums(~mapped_before[groups.members], groups.starts) - 1, 0)
    return freed


def _mapped_before(frames: UInt64s, same: Groups) -> NDArray[np.bool_]:
    """Which pages lie in a frame that an earlier page of the array has too: bool[n].

    ``same``: the pages grouped by frame.
    """
    result = np.zeros(len(frames), np.bool_)
    result[same.members] = True
    result[same.members[same.starts[:-1]]] = False
    return result


def _holders(owner: Int64s, starts: Int64s) -> int:
    """Pairs of a group and a process that has a copy of it. Members ascend, so owners do."""
    changes = np.ones(len(owner), np.bool_)
    changes[1:] = owner[1:] != owner[:-1]
    changes[starts[:-1]] = True
    return int(changes.sum())


def _sums(mask: NDArray[np.bool_], bounds: Int64s) -> Int64s:
    """How many are set between each two neighbouring bounds, which ascend: int64[bounds - 1]."""
    before = np.zeros(len(mask) + 1, np.int64)
    np.cumsum(mask, out=before[1:])
    result: Int64s = before[bounds[1:]] - before[bounds[:-1]]
    return result
