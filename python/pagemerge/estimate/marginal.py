"""Counts what each process of a look adds to the others: pure functions on arrays.

This is the price of one more process like it. The count leaves one out: a content is a process's
own if no other process of its trust domain has it. The more processes are looked at, the fewer
contents are in one of them only (Good, "The population frequencies of species", 1953). So what the
last of k processes adds is on average at least what the next one will add. From one process alone
nothing can be known of what two of its kind have in common. Then all of its contents that no other
program has count as its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ZERO
from pagemerge.estimate.classes import alone
from pagemerge.find.groups import duplicates

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Marginal:
    """Pages of each source of one domain: int64[sources] each."""

    pages: Int64s
    """All pages that were present, also those that could not be read."""
    zero: Int64s
    """Pages of zeros."""
    own: Int64s
    """Frames that the source adds: contents that no other source has, each once. A page that could
    not be read counts as such a content."""
    mapped: Int64s
    """Pages in a frame that another source maps, too: since a fork, or merged by ksmd."""
    runs: Int64s
    """Stretches of pages with a content that occurs twice: the mappings that the user engine
    makes."""

    @property
    def shareable(self) -> Int64s:
        """Pages, not zeros, that need no frame of their own."""
        return self.pages - self.zero - self.own


def marginal(digests: UInt64s, frames: UInt64s, offsets: Int64s) -> Marginal:
    """Count for the sources of one domain.

    ``digests`` and ``frames`` (``tally.shared_frames``) are u64[n], source after source;
    ``offsets`` is int64[sources + 1], the first page of each, and the end.
    """
    mapped = np.zeros(len(frames), np.bool_)
    shared = duplicates(frames)
    several = ~alone(shared, offsets)[1]
    mapped[shared.members] = np.repeat(several, np.diff(shared.starts))
    zero = digests == ZERO
    groups = duplicates(digests)
    # A content that one source has several times adds one frame, unless all of its copies lie in
    # frames that others map already.
    source, only = alone(groups, offsets)
    if len(groups):
        only &= np.logical_or.reduceat(~mapped[groups.members], groups.starts[:-1])
    once = np.bincount(source[only], minlength=len(offsets) - 1)
    copies = np.zeros(len(digests), np.bool_)
    copies[groups.members] = True
    begins = copies.copy()
    begins[1:] &= ~copies[:-1]
    first = offsets[:-1][offsets[:-1] < offsets[1:]]
    begins[first] = copies[first]
    return Marginal(
        np.diff(offsets),
        counts(zero, offsets),
        counts(~(copies | zero | mapped), offsets) + once,
        counts(mapped, offsets),
        counts(begins, offsets),
    )


def counts(mask: Bools, offsets: Int64s) -> Int64s:
    """Count the set elements of ``mask`` (bool[n]) of each source: int64[sources]."""
    bounds = pairwise(offsets.tolist())
    return np.array([np.count_nonzero(mask[first:end]) for first, end in bounds], np.int64)
