"""Estimates what merging would save from a sample of pages, in memory that does not grow.

The base sample of Harnik, Khaitzin and Sotnikov ("Estimating Unseen Deduplication - from Theory to
Practice", FAST 2016; Harnik and others, MSST 2012): draw m pages at random over all sources of a
trust domain, then read all pages once and count exactly how often each of the m contents occurs.
With c copies of a content, merging keeps one page of c. So with N pages

    saved  =  N - contents  =  N (1 - mean of 1/c)

where the mean is over the sample. It is exact on average, whatever the contents are. To this,
three things are added:

- Pages of zeros are counted exactly.
- So are contents with so many copies that the sample cannot have missed them (``SURE``).
- Frames: of pages that share one physical frame already (since a fork, or merged), merging can save
  one only. A page whose frame k looked-at pages map is 1/k of a frame, so the sum of 1/k is the
  number of frames, and merging saves frames - contents, as a full survey counts (``find.tally``).
  So a sampled page has the value 1/k - 1/c; for zeros it is 1/k. Both k and c are counted.

The sample is read before the pass. A page that changed meanwhile has another content, whose copies
were not counted, unless the sample holds that content, too. Such a page counts as unique, and the
interval also allows for its being a duplicate (``Sampled.changed_pages``).

All pages have to be read. There is no option to read a part of them only, because no honest one
exists. If only a fraction q is read, a page with one other copy looks unique with probability
1 - q, so the savings come out too small: by (1 - q) for pairs, by less for more copies. To correct
this, one would have to know how many copies the contents have, which is what is asked. Valiant and
Valiant ("Estimating the Unseen", STOC 2011) prove that no method needs less than N / log N pages.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ABSENT, ZERO, digest
from pagemerge.estimate.interval import Interval, Stratum, Values, total
from pagemerge.estimate.occurrences import Occurrences
from pagemerge.find.groups import steps
from pagemerge.find.look import Progress
from pagemerge.find.sources import Framed, Piece, Source

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]

PAGES = 10_000
"""Pages that are drawn in all, unless the caller wants another number."""
LEAST = 400
"""Pages that are drawn in each domain at least, if it has as many."""
BATCH = 64
"""Pages of the sample that are read at a time: 256 KiB."""
SURE = 15
"""A content of which the sample holds so many pages on average counts as frequent: the sample
misses it with a probability of exp(-15)."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The estimate for one trust domain, or for several together."""

    domain: Hashable
    """None for several."""
    sources: int
    """Sources that could be read."""
    pages: int
    """Pages that were looked at: counted, not estimated."""
    zero_pages: int
    """Pages of these with all bytes zero: counted."""
    sampled_pages: int
    """Pages that were drawn."""
    changed_pages: int
    """Sampled pages that changed before the pass, to contents that were not counted."""
    saveable: Interval
    """Physical frames that merging would free."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The result of ``estimate``."""

    total: Sampled
    domains: list[Sampled]
    """Each trust domain with pages, in the order of the sources."""
    errors: list[tuple[str, str]]
    """Name of each source that could not be read to its end, and why; it counts nowhere. Print
    both through ``text.plain`` only."""
    bytes_read: int
    seconds: float


def estimate(
    sources: Sequence[Source],
    pages: int = PAGES,
    threads: int = 0,
    progress: Progress = lambda _done, _total: None,
    random: np.random.Generator | None = None,
    seed: int | None = None,
) -> Estimate:
    """Estimate what merging pages of ``sources`` would save, from a sample of ``pages`` pages.

    Domains get parts of the sample in proportion to their pages, but at least ``LEAST`` each. Needs
    about 120 bytes for each page of the sample, and 0.5 MB, beside a piece of a source: domains are
    looked at one after the other. ``random`` draws the sample, and ``seed`` is that of the digests;
    by default, both come from the system. Nothing is raised for a source that goes away.
    """
    began, read = time.monotonic(), 0
    random = random or np.random.default_rng()
    seed = secrets.randbits(64) if seed is None else seed
    domains: dict[Hashable, list[Source]] = {}
    for source in sources:
        domains.setdefault(source.domain, []).append(source)
    everything = sum(source.total for source in sources)
    done, parts, every, certain = 0, [], list[Stratum](), 0
    for name, members in domains.items():
        here = sum(source.total for source in members)
        count = min(max(-(-pages * here // max(everything, 1)), LEAST), here)
        one = _Pass(members, _drawn(random, here, count), seed, threads)
        for covered, size in one.run():
            read += size
            progress(done + covered, everything)
        done += here
        strata, known = one.strata()
        parts.append(one.sampled(name, total(strata, known)))
        every, certain = every + strata, certain + known
    return Estimate(
        _together(parts, total(every, certain)),
        [part for part in parts if part.pages],
        [(source.name, source.error) for source in sources if source.error],
        read,
        time.monotonic() - began,
    )


def _together(parts: list[Sampled], saveable: Interval) -> Sampled:
    return Sampled(
        None,
        sum(it.sources for it in parts),
        sum(it.pages for it in parts),
        sum(it.zero_pages for it in parts),
        sum(it.sampled_pages for it in parts),
        sum(it.changed_pages for it in parts),
        saveable,
    )


def _drawn(random: np.random.Generator, pages: int, count: int) -> Int64s:
    """Draw ``count`` of ``pages`` positions without replacement: int64[count], ascending.

    ``Generator.choice`` needs memory for all pages.
    """
    if pages <= 4 * count:
        return np.sort(random.permutation(pages)[:count])
    found = np.empty(0, np.int64)
    while missing := count - len(found):
        found = np.union1d(found, random.integers(pages, size=missing))
    return found


class _Pass:
    """The sample of one domain, and what one pass over all its pages counts."""

    def __init__(
        self, sources: Sequence[Source], positions: Int64s, seed: int, threads: int
    ) -> None:
        self.sources = sources
        self.positions = positions
        """int64[m]: the pages of the sample, ascending, among the pages of all sources."""
        self.seed = seed
        self.threads = threads
        self.drawn, self.now = np.zeros((2, 2, len(positions)), np.uint64)
        """u64[2, m]: digests and frames of the sample; when drawn, and in the pass."""
        self.pages = self.zeros = self.lone_zeros = 0
        """Pages; those of zeros; those of zeros in frames of their own."""
        self.read = 0
        """Sources that were read to their end."""

    def run(self) -> Iterator[tuple[int, int]]:
        """Draw the sample, then count. Yields how many pages are done, and the bytes of a step."""
        ends = np.cumsum([source.total for source in self.sources])
        cuts = np.searchsorted(self.positions, ends)
        for source, here, first in self._each(cuts, ends):
            if not source.error:
                self._draw(source, here, self.positions[here] - first)
        self.contents = Occurrences(self.drawn[0], 2)
        self.frames = Occurrences(self.drawn[1], 1)
        for source, here, first in self._each(cuts, ends):
            if source.error:
                continue
            at, before = first, (self.pages, self.zeros, self.lone_zeros)
            for piece in source.read(self.seed, self.threads):
                self._count(piece, at)
                at += len(piece.digests)
                yield at, piece.bytes_read
            # What was counted of a source that went away must not remain.
            self.contents.settle(not source.error)
            self.frames.settle(not source.error)
            self.read += not source.error
            if source.error:
                self.pages, self.zeros, self.lone_zeros = before
                self.now[:, here] = ABSENT

    def _each(self, cuts: Int64s, ends: Int64s) -> Iterator[tuple[Source, slice, int]]:
        """Yield each source, its part of the sample, and its first page."""
        for number, source in enumerate(self.sources):
            start = int(cuts[number - 1]) if number else 0
            yield source, slice(start, int(cuts[number])), int(ends[number]) - source.total

    def _draw(self, source: Source, here: slice, indices: Int64s) -> None:
        digests, frames = self.drawn[:, here]
        for start in range(0, len(indices), BATCH):
            part = slice(start, start + BATCH)
            digest(source.contents(indices[part]), self.seed, digests[part])
        if isinstance(source, Framed):
            frames[:] = source.frames(indices, digests)

    def _count(self, piece: Piece, at: int) -> None:
        """Count a piece whose first page has the position ``at``."""
        first, end = np.searchsorted(self.positions, (at, at + len(piece.digests)))
        places = self.positions[first:end] - at
        self.now[0, first:end] = piece.digests[places]
        self.now[1, first:end] = piece.frames[places]
        for here in steps(len(piece.digests)):
            digests, frames = piece.digests[here], piece.frames[here]
            lone, zero = frames == ABSENT, digests == ZERO
            self.pages += int(np.count_nonzero(digests))
            self.zeros += int(np.count_nonzero(zero))
            self.lone_zeros += int(np.count_nonzero(zero & lone))
            self.contents.count(digests, lone)
            if not lone.all():
                self.frames.count(frames)

    def strata(self) -> tuple[list[Stratum], int]:
        """Return the pages whose values are estimated, and the sum of those that are known."""
        copies, lone = self.contents.counts
        sampled = int(np.count_nonzero(self.now[0]))
        frequent = copies >= max(SURE * self.pages / max(sampled, 1), 1)
        kind, low, high = self._values(copies, frequent)
        certain = self.lone_zeros + int(lone[frequent].sum()) - int(np.count_nonzero(frequent))
        pages = int(copies[frequent].sum())
        in_shared_frames = pages - int(lone[frequent].sum()) + self.zeros - self.lone_zeros
        others = self.pages - self.zeros - pages
        return [
            Stratum(count, low[kind == number], high[kind == number])
            for number, count in enumerate((in_shared_frames, others))
        ], certain

    def _values(self, copies: Int64s, frequent: NDArray[np.bool_]) -> tuple[Int64s, Values, Values]:
        """Return of each page of the sample its stratum (-1: none), and its least and greatest
        value.

        Stratum 0: zeros and frequent contents, in frames of several pages; 1: other contents.
        """
        digests, frames = self.now
        slot, place = self.contents.slots(digests), self.frames.slots(frames)
        # The last elements are for unknown contents and frames, whose slot is -1.
        often = (digests == ZERO) | np.append(frequent, False)[slot]
        contents = np.where(often, 0.0, 1 / np.maximum(np.append(copies, 1), 1)[slot])
        mapped = 1 / np.maximum(np.append(self.frames.counts[0], 1), 1)[place]
        changed = (slot < 0) & ~often
        moved = (place < 0) & (frames != ABSENT)
        kind = np.where(often, np.where(frames != ABSENT, 0, -1), 1)
        kind[digests == ABSENT] = -1
        low = np.clip(np.where(changed | moved, 0.0, mapped - contents), 0.0, 1.0)
        high = np.clip(np.where(changed, 1.0, mapped - contents), 0.0, 1.0)
        self.changed = int(np.count_nonzero((kind >= 0) & (high > low)))
        return kind, low, high

    def sampled(self, domain: Hashable, saveable: Interval) -> Sampled:
        """Return the result, after ``strata``."""
        return Sampled(
            domain,
            self.read,
            self.pages,
            self.zeros,
            int(np.count_nonzero(self.now[0])),
            self.changed,
            saveable,
        )
