"""Compares looks at the same processes over time: which duplicates last, and how many unshare.

A page is the same page in two looks if it has the same address in the same process. Its bytes have
changed if its digest has: all looks of a watch have one seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ABSENT
from pagemerge.find import tally
from pagemerge.find.look import Look
from pagemerge.find.sources import ProcessSource

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Watched:
    """What several looks have shown; numbers of pages."""

    looks: int
    seconds: float
    """From the first look to the last."""
    saveable_pages: int
    """Frames that merging would free, by the last look."""
    stable_pages: int
    """Of these, the part of pages that stayed unchanged from the first look to the last."""
    volatile_pages: int
    """The part of pages that were there from the first look on, and were written."""
    new_pages: int
    """The part of pages that have appeared since the first look."""
    gone_pages: int
    """Of what merging would have freed by the first look: pages that have been freed since."""
    expected_pages: float
    """Frames that merging frees and that are still free one look later, in the mean."""
    least_pages: int
    """The same, after the worst interval between two looks ..."""
    most_pages: int
    """... and after the best."""
    unshared_per_second: float
    """Duplicates that are written in a second: each would take a frame again."""


class Looks:
    """Takes looks one by one; keeps what is needed of the last one."""

    def __init__(self) -> None:
        self._last: _Moment | None = None
        self._first = 0.0
        self._looks = 0
        self._first_duplicates: dict[tuple[int, int], UInt64s] = {}
        self._kept: list[int] = []
        self._unshared = 0.0

    def add(self, found: Look, births: dict[int, int], seconds: float) -> None:
        """Add a look that began at ``seconds`` of some clock.

        ``births``: the start time of each process by its pid, because pids are used again.
        """
        now = _Moment(found, births, seconds)
        if self._last is None:
            self._first = seconds
            now.age[:] = 1
            now.original[:] = True
            self._first_duplicates = now.duplicates()
        else:
            changed, gone = now.follow(self._last)
            self._kept.append(self._last.saveable_without(changed | gone))
            self._unshared += float((self._last.gain[changed] > 0).sum())
        self._looks += 1
        self._last = now

    def result(self) -> Watched:
        """Return what the looks have shown; at least one was added."""
        last = self._last
        assert last is not None
        unchanged = last.age == self._looks
        parts = [last.gain[it].sum() for it in (unchanged, last.original & ~unchanged)]
        total = float(last.gain.sum())
        gone = sum(
            len(np.setdiff1d(pages, last.pages_of(key), assume_unique=True))
            for key, pages in self._first_duplicates.items()
        )
        kept, seconds = self._kept or [round(total)], last.seconds - self._first
        return Watched(
            looks=self._looks,
            seconds=seconds,
            saveable_pages=round(total),
            stable_pages=round(float(parts[0])),
            volatile_pages=round(float(parts[1])),
            new_pages=max(round(total) - round(float(parts[0])) - round(float(parts[1])), 0),
            gone_pages=gone,
            expected_pages=sum(kept) / len(kept),
            least_pages=min(kept),
            most_pages=max(kept),
            unshared_per_second=self._unshared / seconds if seconds > 0 else 0.0,
        )


class _Moment:
    """One look, and how long each of its pages has been as it is."""

    def __init__(self, found: Look, births: dict[int, int], seconds: float) -> None:
        self.look, self.seconds = found, seconds
        self._sources = [it for it in found.sources if isinstance(it, ProcessSource)]
        assert len(self._sources) == len(found.sources), "an image has no addresses, and no time"
        pids = [source.process.pid for source in self._sources]
        self._place = {(pid, births.get(pid, 0)): at for at, pid in enumerate(pids)}
        self.gain = np.concatenate(
            [tally.gains(it.digests, it.frames, True) for it in found.domains()]
            or [np.empty(0, np.float32)]
        )
        self.age = np.ones(len(found.digests), np.int32)
        """int32[pages]: looks, this one included, in which the page has had its bytes."""
        self.original = np.zeros(len(found.digests), np.bool_)
        """bool[pages]: the page has been there since the first look."""

    def pages_of(self, key: tuple[int, int]) -> UInt64s:
        """Return the addresses of a process's pages; none if the process is not there."""
        at = self._place.get(key)
        return np.empty(0, np.uint64) if at is None else self._sources[at].addresses()

    def duplicates(self) -> dict[tuple[int, int], UInt64s]:
        """Return the addresses of the pages that merging gains from, by process."""
        return {
            key: self._sources[at].addresses()[self.gain[self._here(at)] > 0]
            for key, at in self._place.items()
        }

    def saveable_without(self, lost: NDArray[np.bool_]) -> int:
        """Count the frames that merging would free without the pages ``lost`` (bool[pages])."""
        found = self.look
        digests = np.where(lost, np.uint64(ABSENT), found.digests)
        frames = np.where(lost, np.uint64(ABSENT), found.frames)
        left = Look(found.sources, digests, frames, found.offsets, found.seed, 0, 0.0)
        parts = (tally.tally(it.digests, it.frames, it.offsets) for it in left.domains())
        return sum(part.totals.saveable_pages for part in parts)

    def follow(self, before: _Moment) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Take over ages from the look ``before``.

        Returns which of its pages have changed since, and which are gone: bool[its pages] each.
        """
        changed = np.zeros(len(before.age), np.bool_)
        gone = np.ones(len(before.age), np.bool_)
        for key, at in self._place.items():
            there = before._place.get(key)
            if there is None:
                continue
            was, here = before._here(there), self._here(at)
            mine, theirs = self._sources[at].addresses(), before.pages_of(key)
            _, now, then = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
            same = self.look.digests[here][now] == before.look.digests[was][then]
            self.age[here.start + now[same]] = before.age[was.start + then[same]] + 1
            self.original[here.start + now] = before.original[was.start + then]
            changed[was.start + then[~same]] = True
            gone[was.start + then] = False
        return changed, gone

    def _here(self, at: int) -> slice:
        return slice(*self.look.offsets[at : at + 2].tolist())
