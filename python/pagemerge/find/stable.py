"""Counts stable pages of our own slabs by the mappings of processes: what is merged, and what that
saves. It does not ask a hub.

A slab is a file in memory. A page of its mapping that the process has written since is private and
anonymous again. Every other page maps a slot, even if the process has not touched it yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pagemerge.linux.maps import Mapping
from pagemerge.model import PAGE_SIZE

UInt64s = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """One mapping of a slab."""

    slab: int
    """The inode of the file; all slabs lie in one file system."""
    slot: int
    """Index of the first page in the file."""
    merged: NDArray[np.bool_]
    """bool[pages]: the page maps its slot, and was not written since."""

    @classmethod
    def of(cls, mapping: Mapping, starts: UInt64s, pages: UInt64s) -> Self:
        """Make one from the runs of its written pages: addresses and lengths, u64[runs] each."""
        edges = np.zeros((mapping.end - mapping.start) // PAGE_SIZE + 1, np.int64)
        first = (starts.astype(np.int64) - mapping.start) // PAGE_SIZE
        edges[first] += 1
        edges[first + pages.astype(np.int64)] -= 1
        return cls(mapping.inode, mapping.offset // PAGE_SIZE, np.cumsum(edges[:-1]) == 0)


@dataclass(frozen=True, slots=True)
class Stable:
    """The merged pages of one process, or of all processes of a domain."""

    pages: int = 0
    """Mappings of slots."""
    slots: int = 0
    """Mapped slots, each counted once."""

    @property
    def saved_pages(self) -> int:
        """Mappings of slots beyond the first of each: pages that merging has saved."""
        return self.pages - self.slots

    def __add__(self, other: Stable) -> Stable:
        return Stable(self.pages + other.pages, self.slots + other.slots)


def count(stretches: Iterable[Stretch]) -> Stable:
    """Count the merged pages of stretches of one domain, which may be of several processes."""
    slabs: dict[int, list[Stretch]] = {}
    for one in stretches:
        slabs.setdefault(one.slab, []).append(one)
    return sum((_of_slab(found) for found in slabs.values()), Stable())


def _of_slab(stretches: list[Stretch]) -> Stable:
    first = min(one.slot for one in stretches)
    mapped = np.zeros(max(one.slot + len(one.merged) for one in stretches) - first, np.bool_)
    for one in stretches:
        mapped[one.slot - first :][: len(one.merged)] |= one.merged
    return Stable(sum(int(one.merged.sum()) for one in stretches), int(mapped.sum()))
