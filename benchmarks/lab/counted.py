"""What KSM's counters and its limit make of pages: pure functions on the arrays of a look.

KSM counts mappings, and merging frees frames. A content keeps one frame for each
``max_page_sharing`` mappings of it. Source: Linux mm/ksm.c, ``stable_node_dup``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pagemerge._core import ABSENT, ZERO
from pagemerge.find.groups import duplicates
from pagemerge.find.sources import Int64s, UInt64s


@dataclass(frozen=True, slots=True)
class Counted:
    """How KSM's figures differ from what a survey says, in pages."""

    limit: int
    """Frames that stay, of those that the survey says merging would free."""
    forked: int
    """Mappings of merged contents that shared a frame before: KSM counts them, too."""


def counted(digests: UInt64s, frames: UInt64s, most: int, use_zero_pages: bool) -> Counted:
    """Count over all pages of one domain: ``digests`` and ``frames`` are u64[n], as in a look.

    ``most``: mappings that a stable page may have. With ``use_zero_pages`` ksmd gives zeros the
    kernel's own page; without, they are a content like others.
    """
    groups = duplicates(digests)
    copies = np.diff(groups.starts)
    in_frames = frames_of(frames[groups.members], groups.starts)
    # ksmd does not merge pages that are all in one frame since a fork.
    merged = in_frames > 1
    limit = int(np.minimum(-(-copies // most), in_frames)[merged].sum() - merged.sum())
    forked = int((copies - in_frames)[merged].sum())
    zeros = frames[digests == np.uint64(ZERO)]
    zero_frames = int(frames_of(zeros, np.array([0, len(zeros)]))[0])
    if use_zero_pages or zero_frames > 1:
        forked += len(zeros) - zero_frames
    if not use_zero_pages:
        # The survey says that no frame of zeros stays.
        limit += min(-(-len(zeros) // most), zero_frames)
    return Counted(limit, forked)


def frames_of(names: UInt64s, starts: Int64s) -> Int64s:
    """Count the frames of groups of pages: i64[groups].

    ``names`` (u64[n]): the frame of each page; one that is ``ABSENT`` is of this page alone.
    ``starts`` (i64[groups + 1]): the first page of each group, and the end.
    """
    group = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((names, group))
    names, group = names[order], group[order]
    new = np.ones(len(names), np.bool_)
    new[1:] = (names[1:] != names[:-1]) | (group[1:] != group[:-1]) | (names[1:] == ABSENT)
    found: Int64s = np.bincount(group[new], minlength=len(starts) - 1)
    return found
