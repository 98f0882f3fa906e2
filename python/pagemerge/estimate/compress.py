"""Estimates what compression (zram) would save, alone and together with merging, from a sample.

Merging frees all zero pages, and all frames of a content but one; the look knows their number. zram
compresses each page by itself: two equal pages cost twice. So the frames fall into three strata:
zeros, frames that merging would free, and frames that it keeps. Zeros cost nothing either way. A
sample of each of the others tells how well it compresses, and a sample of the frames kept, how many
of these are nearly equal to another (``near``). Intervals hold the true value in 95 of 100 cases:
normal approximation of a stratified sample without replacement (Cochran, "Sampling Techniques",
1977, chapter 5). The variance counts two pages more in each sample, one that compresses best and
one that compresses worst, because a small sample may have no such page.

Compression saves only while a page is not used: a page that is touched comes back whole. So these
figures are what it can save at most, if everything is swapped to zram.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge.errors import PagemergeError
from pagemerge.estimate.classes import classes
from pagemerge.estimate.near import MOST_PAGES, NEAR, contents, near, zero_blocks
from pagemerge.estimate.zram import (
    Compress,
    compressed_bytes,
    compressors,
    held_bytes,
    same_filled,
    unfilled_bytes,
)
from pagemerge.find.look import Look, Progress
from pagemerge.model import PAGE_SIZE

Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

SAMPLE = 4000
"""Pages that are compressed, of all together."""

_NORMAL = 1.96
"""Standard deviations to each side that hold 95% of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that holds the true one in 95 of 100 cases."""

    value: float
    low: float
    high: float

    def plus(self, more: float) -> Estimate:
        """Add ``more``, which is exact."""
        return Estimate(self.value + more, self.low + more, self.high + more)

    def left_of(self, whole: float) -> Estimate:
        """Subtract this from ``whole``, which is exact."""
        return Estimate(whole - self.value, whole - self.high, whole - self.low)


@dataclass(frozen=True, slots=True)
class Compressor:
    """What one compressor of zram saves of the memory looked at; in bytes."""

    name: str
    alone: Estimate
    """Everything is compressed, nothing is merged."""
    beside: Estimate
    """Of what merging keeps: saved in addition to merging."""
    both: Estimate
    """Merged first, and what is left is compressed."""


@dataclass(frozen=True, slots=True)
class Near:
    """How many of the pages that merging keeps are nearly equal to another."""

    share: Estimate
    """Their share of these pages, from 0 to 1."""
    mostly_zero: float
    """The share that has 12 blocks of zeros or more, of the same pages; any compressor gets
    these."""
    whole: bool
    """Compared with all pages; if not, there may be more."""


@dataclass(frozen=True, slots=True)
class Compression:
    """The result of ``compress``; frames are pages of memory, each counted once."""

    zero_pages: int
    """Frames of zeros."""
    freed_pages: int
    """Frames that merging would free, without zeros."""
    kept_pages: int
    """Frames that merging keeps."""
    sampled_pages: int
    """Pages that were compressed."""
    lost_pages: int
    """Pages of the sample that were gone when their bytes were read, or are zeros since."""
    changed_pages: int
    """Pages of the sample that had other bytes than before; they count."""
    same_filled: float
    """Share of the pages kept that zram stores as one word, from 0 to 1."""
    compressors: tuple[Compressor, ...]
    near: Near
    seconds: float

    @property
    def pages(self) -> int:
        """All frames looked at."""
        return self.zero_pages + self.freed_pages + self.kept_pages

    @property
    def merging_bytes(self) -> int:
        """What merging alone saves."""
        return (self.zero_pages + self.freed_pages) * PAGE_SIZE


def compress(
    found: Look,
    sample: int = SAMPLE,
    *,
    seed: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Compression:
    """Estimate what compression would save of the memory of a look, from ``sample`` pages.

    ``seed``: of the random draws; None: a new one. ``progress`` counts the pages that are compared
    for near duplicates. Raises ``Unsupported`` if the compressors are not installed, and
    ``PagemergeError`` if there is nothing to compress any more.
    """
    began, methods = time.monotonic(), compressors()
    rng = np.random.default_rng(seed)
    zero, kept, freed = _strata(found)
    kept_at, freed_at = _drawn(kept, freed, sample, rng)
    ours, theirs = _Sample.read(found, kept_at), _Sample.read(found, freed_at)
    if len(kept_at) and not len(ours.pages):
        raise PagemergeError(
            "none of the sampled pages is there any more: the processes have ended; look again"
        )
    counted = [int(np.count_nonzero(it)) for it in (zero, freed, kept)]
    return Compression(
        counted[0],
        counted[1],
        counted[2],
        len(ours.pages) + len(theirs.pages),
        ours.lost + theirs.lost,
        ours.changed + theirs.changed,
        float(same_filled(ours.pages).mean()) if len(ours.pages) else 0.0,
        tuple(_judged(name, it, ours, theirs, counted) for name, it in methods.items()),
        _near(found, kept, ours, rng, progress),
        time.monotonic() - began,
    )


def total(strata: Sequence[tuple[Floats, int]], most: float = PAGE_SIZE) -> Estimate:
    """Estimate the total of a figure from a sample of each stratum.

    ``strata``: the values of the sample (f64[n], from 0 to ``most``), and the size of the stratum.
    """
    value = variance = 0.0
    for values, size in strata:
        n = len(values)
        if not size:
            continue
        widened = np.concatenate((values, (0.0, most)))
        value += size * float(values.mean() if n else most / 2)
        left_out = 1 - n / size
        variance += size * size * float(widened.var(ddof=1)) / max(n, 1) * left_out
    wide = _NORMAL * math.sqrt(variance)
    whole = most * sum(size for _, size in strata)
    return Estimate(value, max(value - wide, 0.0), min(value + wide, whole))


def share(hits: int, drawn: int, size: int) -> Estimate:
    """Estimate the share of ``size`` of which ``hits`` of ``drawn`` are a sample.

    Interval of Wilson (1927), with the sample enlarged for being without replacement.
    """
    if not drawn:
        return Estimate(0.0, 0.0, 1.0 if size else 0.0)
    value = hits / drawn
    if drawn >= size:
        return Estimate(value, value, value)
    n, square = drawn / (1 - drawn / size), _NORMAL * _NORMAL
    middle = (value + square / (2 * n)) / (1 + square / n)
    wide = _NORMAL * math.sqrt(value * (1 - value) / n + square / (4 * n * n)) / (1 + square / n)
    return Estimate(value, min(max(middle - wide, 0.0), value), max(min(middle + wide, 1.0), value))


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Sampled pages of one stratum, as they are now."""

    indices: Int64s
    """int64[n]: their indices in the look, ascending."""
    pages: Bytes
    """u8[n, 4096]."""
    lost: int
    changed: int

    @classmethod
    def read(cls, found: Look, indices: Int64s) -> _Sample:
        """Read the pages with these ``indices``, none of which was a page of zeros."""
        pages = contents(found, indices)
        now = np.empty(len(pages), np.uint64)
        _core.digest(pages.reshape(-1), found.seed, now)
        there = now != _core.ZERO
        changed = int(np.count_nonzero(there & (now != found.digests[indices])))
        return cls(indices[there], pages[there], int(np.count_nonzero(~there)), changed)


def _strata(found: Look) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the frames of zeros, those that merging keeps, and those that it frees: bool[n] each."""
    sorted_out = [classes(domain.digests, domain.frames) for domain in found.domains()]
    nothing = np.empty(0, np.bool_)
    return (
        np.concatenate([it.zero for it in sorted_out] or [nothing]),
        np.concatenate([it.kept for it in sorted_out] or [nothing]),
        np.concatenate([it.freed for it in sorted_out] or [nothing]),
    )


def _drawn(
    kept: NDArray[np.bool_], freed: NDArray[np.bool_], sample: int, rng: np.random.Generator
) -> tuple[Int64s, Int64s]:
    """Draw pages of each stratum: a quarter of those that are freed, because only compression
    without merging needs these."""
    kept_at, freed_at = np.flatnonzero(kept), np.flatnonzero(freed)
    few = min(len(freed_at), max(sample // 4, sample - len(kept_at)))
    many = min(len(kept_at), sample - few)
    return (
        np.sort(rng.choice(kept_at, many, replace=False)),
        np.sort(rng.choice(freed_at, few, replace=False)),
    )


def _judged(
    name: str, method: Compress, ours: _Sample, theirs: _Sample, counted: list[int]
) -> Compressor:
    """Work out what one compressor saves; ``counted``: frames of zeros, freed, and kept."""
    _, freed, kept = counted
    sizes, others = compressed_bytes(ours.pages, method), compressed_bytes(theirs.pages, method)
    of_kept, of_freed = (held_bytes(sizes), kept), (held_bytes(others), freed)
    unfilled = unfilled_bytes(sizes)
    left = total([of_kept]).plus(unfilled)
    everything = total([of_kept, of_freed]).plus(unfilled)
    return Compressor(
        name,
        alone=everything.left_of(PAGE_SIZE * sum(counted)),
        beside=left.left_of(PAGE_SIZE * kept),
        both=left.left_of(PAGE_SIZE * sum(counted)),
    )


def _near(
    found: Look,
    kept: NDArray[np.bool_],
    ours: _Sample,
    rng: np.random.Generator,
    progress: Progress,
) -> Near:
    """Count the sampled pages that are nearly equal to another page of their trust domain."""
    size, base, whole, hits = int(np.count_nonzero(kept)), 0, True, 0
    done = 0
    for domain in found.domains():
        end = base + len(domain.digests)
        rows = slice(*np.searchsorted(ours.indices, (base, end)).tolist())
        others = np.flatnonzero(kept[base:end])
        if rows.start < rows.stop:
            most = -(-MOST_PAGES * len(others) // size)
            alike, all_of_them = near(domain, others, ours.pages[rows], rng, most)
            hits, whole = hits + int(np.count_nonzero(alike)), whole and all_of_them
        base, done = end, done + len(others)
        progress(done, size)
    drawn = len(ours.pages)
    zeros = float((zero_blocks(ours.pages) >= NEAR).mean()) if drawn else 0.0
    return Near(share(hits, drawn, size), zeros, whole)
