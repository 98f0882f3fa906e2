"""Stable pages of our own slabs, as the mappings of processes tell: what is merged, and what that
saves. No hub is asked.

A slab is a file in memory. A page of its mapping that the process has written since is private and
anonymous again; every other one stands for a slot, whether it was touched yet or not.
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
    """A mapping of a slab."""

    slab: int
    """The inode of the file; all slabs lie in one file system."""
    slot: int
    """Place of the first page in the file."""
    merged: NDArray[np.bool_]
    """bool[pages]: maps its slot, and was not written since."""

    @classmethod
    def of(cls, mapping: Mapping, starts: UInt64s, pages: UInt64s) -> Self:
        """From the runs of its written pages: their addresses and lengths, u64[runs] each."""
        edges = np.zeros((mapping.end - mapping.start) // PAGE_SIZE + 1, np.int64)
        first = (starts.astype(np.int64) - mapping.start) // PAGE_SIZE
        edges[first] += 1
        edges[first + pages.astype(np.int64)] -= 1
        return cls(mapping.inode, mapping.offset // PAGE_SIZE, np.cumsum(edges[:-1]) == 0)


@dataclass(frozen=True, slots=True)
class Stable:
    """What has been merged, of one process or of all of a domain."""

    pages: int = 0
    """Mappings of slots."""
    slots: int = 0
    """Slots, each counted once."""

    @property
    def saved_pages(self) -> int:
        """Mappings of slots beyond the first of each: pages that merging has saved."""
        return self.pages - self.slots

    def __add__(self, other: Stable) -> Stable:
        return Stable(self.pages + other.pages, self.slots + other.slots)


def count(stretches: Iterable[Stretch]) -> Stable:
    """What these stretches of one domain, which may be of several processes, have merged."""
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
