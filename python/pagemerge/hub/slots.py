"""Which slot each page of a region maps, in little memory; and memory for records that can be freed
in part.

Most pages of a guest are zeros that were given back, or were never touched: long stretches of the
records then say the same. Records of a large region lie in memory of their own, in which stretches
that are zero take nothing (``Room``), and ``Slots`` makes stretches that say the same zero.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pagemerge.hub.model import NO_SLOT, OWN_SLOT
from pagemerge.model import PAGE_SIZE

T = TypeVar("T", bound=np.generic)
U32 = npt.NDArray[np.uint32]
Key = slice | int | npt.NDArray[Any]

GROUP = PAGE_SIZE // 4
"""Pages whose slots lie in one page of records."""

LARGE = 4096
"""Pages from which on a region has records that are freed in part."""


class Room:
    """Memory for arrays: zeros at first, which take nothing until they are written."""

    def __init__(self, size: int) -> None:
        """Raises ``OSError`` if the kernel has no room."""
        self._memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._used = 0
        with suppress(OSError):  # a kernel without huge pages
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)  # one written byte would take 2 MiB

    def array(self, count: int, kind: type[T]) -> npt.NDArray[T]:
        """Return the next array of ``count`` elements; each array begins with a page."""
        found = np.frombuffer(self._memory, kind, count, self._used)
        self._used += -(-found.nbytes // PAGE_SIZE) * PAGE_SIZE
        return found

    def free_zeros(self) -> int:
        """Give the kernel all pages that hold zeros only; returns the bytes of the others."""
        words = np.frombuffer(self._memory, np.uint64).reshape(-1, PAGE_SIZE // 8)
        full = words.any(axis=1)
        edges = np.flatnonzero(np.diff(full, prepend=True, append=True))
        for first, end in edges.reshape(-1, 2).tolist():
            self._memory.madvise(mmap.MADV_DONTNEED, first * PAGE_SIZE, (end - first) * PAGE_SIZE)
        return int(np.count_nonzero(full)) * PAGE_SIZE


class Slots:
    """u32[n], indexed as an array, except that what it returns is a copy; ``NO_SLOT`` at first.

    Each element is kept as the difference (exclusive or) to a value of its group.
    """

    def __init__(self, count: int, room: Room | None = None) -> None:
        self._count = count
        self._group = GROUP if room else max(count, 1)
        groups = -(-count // self._group)
        size = groups * self._group
        self._kept: U32 = room.array(size, np.uint32) if room else np.zeros(size, np.uint32)
        self._value = np.full(groups, NO_SLOT, np.uint32)
        self._plain = np.ones(groups, np.bool_)
        """Groups that are zero in ``_kept``, and in which no page maps a slot."""

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: Key) -> U32:
        if isinstance(key, slice):
            first, end, _ = key.indices(self._count)
            groups = slice(first // self._group, -(-end // self._group))
            at = first - groups.start * self._group
            return self._of(groups)[at : at + max(end - first, 0)]
        return np.asarray(self._kept[key] ^ self._value[np.asarray(key) // self._group])

    def __setitem__(self, key: Key, values: npt.ArrayLike) -> None:
        index = (
            np.arange(*key.indices(self._count)) if isinstance(key, slice) else np.atleast_1d(key)
        )
        group = index // self._group
        kept = np.asarray(values, np.uint32) ^ self._value[group]
        other = self._kept[index] != kept  # to write what is there would take memory
        self._kept[index[other]] = kept[other]
        self._plain[group[other]] = False

    def numbers(self) -> U32:
        """Return, in order, the elements of all groups in which a page may map a slot."""
        return self._of(np.flatnonzero(~self._plain))

    def settle(self) -> None:
        """Make groups zero that say the same of all pages; ``Room.free_zeros`` then frees them."""
        whole = self._count // self._group if self._group == GROUP else 0
        changed = np.flatnonzero(~self._plain[:whole])
        rows = self._kept[: whole * self._group].reshape(-1, self._group)
        same = changed[(rows[changed] == rows[changed, :1]).all(axis=1)]
        self._value[same] ^= rows[same, 0]
        rows[same] = 0
        self._plain[same] = self._value[same] >= OWN_SLOT

    def _of(self, groups: slice | npt.NDArray[np.int64]) -> U32:
        kept = self._kept.reshape(-1, self._group)[groups]
        return np.asarray((kept ^ self._value[groups, None]).ravel())
