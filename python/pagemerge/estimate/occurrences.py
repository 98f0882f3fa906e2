"""Counts how often each of a few thousand known words occurs in a stream of many.

A table of the upper bits rules out most words at once, and tells where to look for the others.
Binary search takes ten times as long, because each of its steps waits for memory. The upper bits
have to be spread evenly, as those of digests and names of frames are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ZERO

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

STEP = 1 << 13
"""Words that are looked up at a time: their temporary arrays stay in the cache."""
MOST_BITS = 20
"""Upper bits at most that the table knows: it then has 5 MB."""


class Occurrences:
    """Known words, and how often each has occurred: 8 bytes for each word, twice 8 for each of its
    counters, and about 10 to 20 for the table."""

    def __init__(self, words: UInt64s, counters: int) -> None:
        """Count ``words`` (u64[m], any order), except ``ABSENT`` and ``ZERO``.

        ``counters``: 1 counts words, 2 also counts those that are marked.
        """
        known = np.unique(words)
        self.words: UInt64s = known[known > ZERO]
        """u64[w], ascending."""
        self.counts = np.zeros((counters, len(self.words)), np.int64)
        """int64[counters, w]"""
        self._new = np.zeros_like(self.counts)
        bits = min(len(self.words).bit_length() + 1, MOST_BITS)
        self._shift = np.uint64(64 - bits)
        upper = self._upper(self.words)
        self._marks = np.zeros(1 << bits, np.bool_)
        """bool[table]: there are words with these upper bits."""
        self._marks[upper] = True
        self._first = np.zeros(1 << bits, np.int32)
        """int32[table]: the first of these words."""
        self._first[upper[::-1]] = np.arange(len(upper) - 1, -1, -1)

    def count(self, words: UInt64s, marked: Bools | None = None) -> None:
        """Count the known words in ``words`` (u64[n]); ``marked`` (bool[n]) for the second counter.

        They count only when they are settled.
        """
        for start in range(0, len(words) if len(self.words) else 0, STEP):
            here = slice(start, start + STEP)
            places, slots = self._found(words[here])
            self._new[0] += np.bincount(slots, minlength=len(self.words))
            if marked is not None:
                self._new[1] += np.bincount(slots[marked[here][places]], minlength=len(self.words))

    def settle(self, keep: bool) -> None:
        """Keep what was counted since the last call, or forget it."""
        if keep:
            self.counts += self._new
        self._new[:] = 0

    def slots(self, words: UInt64s) -> Int64s:
        """Return where ``words`` (u64[n]) are among the known ones: int64[n], -1 for others."""
        found = np.full(len(words), -1)
        if len(self.words):
            places, slots = self._found(words)
            found[places] = slots
        return found

    def _found(self, words: UInt64s) -> tuple[Int64s, Int64s]:
        """Find the known ones of ``words``: where they are there, and which they are."""
        upper = self._upper(words)
        places = np.flatnonzero(self._marks[upper])
        left, slot = words[places], self._first[upper[places]].astype(np.int64)
        found_places, found_slots = [places[:0]], [slot[:0]]
        while len(left):
            known = self.words[slot]
            same = known == left
            found_places.append(places[same])
            found_slots.append(slot[same])
            # The words ascend, so one that is greater ends the search.
            more = (known < left) & (slot < len(self.words) - 1)
            left, slot, places = left[more], slot[more] + 1, places[more]
        return np.concatenate(found_places), np.concatenate(found_slots)

    def _upper(self, words: UInt64s) -> Int64s:
        return (words >> self._shift).view(np.int64)
