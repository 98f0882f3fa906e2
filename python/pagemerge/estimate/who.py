"""Counts who shares with whom: for groups of processes (guests, containers, units, users), what is
theirs alone, what they hold twice, and what they have in common with which other group.

Figures are pages as processes map them; pages that share a frame already count like others, because
they are in common, too. Zero pages are counted apart: every group has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge.find import tally
from pagemerge.find.groups import duplicates
from pagemerge.find.look import Look

Int64s = NDArray[np.int64]

MOST_COMPARED = 50
"""Groups whose pairs are counted: those with most in common with others."""

COUNTED = (
    *("sources", "pages", "zero_pages", "own_duplicate_pages", "shared_pages"),
    "exclusive_pages",
)
"""The fields of ``Group`` that are counted, in their order."""

_ROOM = 1 << 16
"""Contents that are compared at a time: with 50 groups, 13 MB."""


@dataclass(frozen=True, slots=True)
class Group:
    """Some processes together; ``pages`` = zero + own duplicates + shared + exclusive."""

    name: str
    """For people; print it through ``text.plain`` only."""
    sources: int
    """Processes and images in it."""
    pages: int
    """Pages that were looked at."""
    zero_pages: int
    own_duplicate_pages: int
    """Copies beyond the first of contents that only this group has."""
    shared_pages: int
    """Copies of contents that another group of its domain has, too."""
    exclusive_pages: int
    """Contents that only this group has, each once."""
    saveable_pages: float
    """Its part of the frames that merging would free: all holders of a page get equal parts."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What two groups have in common."""

    first: str
    second: str
    contents: int
    """Different pages, other than zeros, that both have."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """The groups, those with most pages first, and the pairs, those with most in common first."""

    kind: str
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    compared: tuple[str, ...]
    """The groups whose pairs were counted, at most ``MOST_COMPARED``."""


def sharing(found: Look, labels: Sequence[str], kind: str) -> Sharing:
    """Count for the groups that ``labels`` name, one for each source of ``found``."""
    names = list(dict.fromkeys(labels))
    count = _Count(names)
    first = 0
    for domain in found.domains():
        end = first + len(domain.sources)
        whose = np.array([names.index(it) for it in labels[first:end]], np.int64)
        count.add(domain, whose)
        first = end
    return count.result(kind)


class _Count:
    """The counts of all groups, to which domains are added one by one."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        size = len(names)
        self._counts = {it: np.zeros(size, np.int64) for it in COUNTED}
        self._gain = np.zeros(size)
        self._held: list[tuple[Int64s, Int64s]] = []
        """Of each domain, the contents that several groups have: content and group, by content."""

    def add(self, domain: Look, whose: Int64s) -> None:
        """Add a domain; ``whose``: the group of each of its sources, int64[sources]."""
        size = len(self._names)
        counted = tally.tally(domain.digests, domain.frames, domain.offsets)
        groups = duplicates(domain.digests)
        group = whose[np.searchsorted(domain.offsets, groups.members, side="right") - 1]
        content = np.repeat(np.arange(len(groups)), np.diff(groups.starts))
        held, copies = np.unique(content * size + group, return_counts=True)
        content, group = held // size, held % size
        several = np.bincount(content, minlength=len(groups))[content] > 1
        self._held.append((content[several], group[several]))

        pages = _summed(whose, counted.pages, size)
        zero = _summed(whose, counted.zero_pages, size)
        own = _summed(group[~several], copies[~several] - 1, size)
        shared = _summed(group[several], copies[several], size)
        parts = {"sources": np.bincount(whose, minlength=size), "pages": pages}
        parts |= {"zero_pages": zero, "own_duplicate_pages": own, "shared_pages": shared}
        parts["exclusive_pages"] = pages - zero - own - shared
        for name, part in parts.items():
            self._counts[name] += part
        self._gain += np.bincount(whose, weights=counted.gain, minlength=size)

    def result(self, kind: str) -> Sharing:
        """Return what was counted."""
        rows = zip(*(self._counts[it].tolist() for it in COUNTED), strict=True)
        groups = [
            Group(name, **dict(zip(COUNTED, row, strict=True)), saveable_pages=gain)
            for name, row, gain in zip(self._names, rows, self._gain.tolist(), strict=True)
        ]
        shared = self._counts["shared_pages"]
        chosen = np.argsort(-shared, kind="stable")[:MOST_COMPARED]
        chosen = chosen[shared[chosen] > 0]
        both = np.zeros((len(chosen), len(chosen)), np.int64)
        for content, group in self._held:
            both += _in_common(content, group, chosen, len(self._names))
        names = [self._names[it] for it in chosen.tolist()]
        pairs = [
            Pair(names[one], names[other], int(both[one, other]))
            for one, other in zip(*np.nonzero(np.triu(both, 1)), strict=True)
        ]
        pairs.sort(key=lambda pair: (-pair.contents, pair.first, pair.second))
        groups.sort(key=lambda group: (-group.pages, group.name))
        there = tuple(group for group in groups if group.pages)
        return Sharing(kind, there, tuple(pairs), tuple(names))


def _summed(where: Int64s, figures: Int64s, size: int) -> Int64s:
    """Add up ``figures`` by the place that ``where`` gives each: int64[size]."""
    return np.bincount(where, weights=figures, minlength=size).astype(np.int64)


def _in_common(content: Int64s, group: Int64s, chosen: Int64s, groups: int) -> Int64s:
    """Count the contents that each two of the ``chosen`` groups both hold: int64[c, c].

    ``content`` and ``group`` are pairs, ascending by content.
    """
    place = np.full(groups, -1, np.int64)
    place[chosen] = np.arange(len(chosen))
    kept = place[group] >= 0
    content, column = content[kept], place[group[kept]]
    both = np.zeros((len(chosen), len(chosen)), np.int64)
    if not len(content):
        return both
    row = np.cumsum(np.append(False, content[1:] != content[:-1]))
    for first in range(0, int(row[-1]) + 1, _ROOM):
        here = slice(*np.searchsorted(row, [first, first + _ROOM]).tolist())
        holds = np.zeros((_ROOM, len(chosen)), np.float32)  # sums of whole numbers below 2^24
        holds[row[here] - first, column[here]] = 1
        both += (holds.T @ holds).astype(np.int64)
    return both
