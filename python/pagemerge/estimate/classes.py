"""Sorts the pages of one trust domain by what merging does to them: pure functions on arrays.

Terms as in ``find.tally``: copies of a content lie in frames, and merging keeps one frame of each
content. All arrays have one element for each page, source after source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ABSENT, ZERO
from pagemerge.find.groups import duplicates
from pagemerge.find.tally import mapped_before
from pagemerge.model import Groups

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Each frame is in exactly one of the first three; other pages lie in a frame of theirs.

    Pages that could not be read are in none.
    """

    zero: Bools
    """bool[n]: frames of zeros."""
    kept: Bools
    """bool[n]: the first frame of each content that is not zero: merging keeps it."""
    freed: Bools
    """bool[n]: the other frames of each content: merging frees them."""
    copies: Bools
    """bool[n]: pages, not frames, whose content occurs at least twice; not zeros."""


def classes(digests: UInt64s, frames: UInt64s) -> Classes:
    """Sort the pages of one domain: u64[n] digests, and frames (``tally.shared_frames``)."""
    first = ~mapped_before(frames)
    zero = digests == ZERO
    groups = duplicates(digests)
    copies = np.zeros(len(digests), np.bool_)
    copies[groups.members] = True
    kept = first & ~zero & (digests != ABSENT) & ~copies
    # Of the frames of each group, the first one stays.
    members, here = groups.members, first[groups.members]
    group = np.repeat(np.arange(len(groups)), np.diff(groups.starts))[here]
    leads = np.ones(len(group), np.bool_)
    leads[1:] = group[1:] != group[:-1]
    kept[members[here][leads]] = True
    freed = np.zeros_like(kept)
    freed[members[here][~leads]] = True
    return Classes(zero & first, kept, freed, copies)


def alone(groups: Groups, offsets: Int64s) -> tuple[Int64s, Bools]:
    """Find the groups whose pages all belong to one source: its index, and whether it is so.

    ``offsets``: int64[sources + 1]. Both results have one element for each group; the members of a
    group ascend, so its first and last page tell.
    """
    first = np.searchsorted(offsets, groups.members[groups.starts[:-1]], side="right") - 1
    last = np.searchsorted(offsets, groups.members[groups.starts[1:] - 1], side="right") - 1
    return first, first == last
