"""Counts equal pages of several processes of one trust domain: pure functions on arrays.

Terms: a *copy* is a page of a process with some content. Several copies may lie in one physical
*frame* already (after fork, or merged). One frame of each content has to stay, except for zeros,
whose frame the kernel keeps anyway. So with c copies in f frames merging frees f - 1 frames, and
c - f copies have been saved before. For each content other than zeros, then summed:

    c - 1  =  duplicates within (copies beyond the first in their process)
            + duplicates across (processes beyond the first)
    saveable  =  zeros + within + across - already shared

The saveable part is split in the same way, by counting one page of each frame.
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
    frame = entries & FRAME
    known = bool(frame.any())
    shared = (entries & (PRESENT if known else PRESENT | EXCLUSIVE)) == PRESENT
    # SPREAD is odd, so that frames keep different names. It spreads the numbers over the upper
    # bits, at which grouping looks first.
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
    """Divide the frames that merging would free among the copies of each content: f32[n].

    A page gets 0 if merging it gains nothing: its content is unique, or all its copies lie in one
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
    """Count the frames that merging each group would free: int64[groups]."""
    # If a page changed between the looks at content and frame, a group may have no frame left.
    freed: Int64s = np.maximum(_sums(~mapped_before[groups.members], groups.starts) - 1, 0)
    return freed


def _mapped_before(frames: UInt64s, same: Groups) -> NDArray[np.bool_]:
    """Find the pages in a frame that an earlier page of the array has too: bool[n].

    ``same``: the pages grouped by frame.
    """
    result = np.zeros(len(frames), np.bool_)
    result[same.members] = True
    result[same.members[same.starts[:-1]]] = False
    return result


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
