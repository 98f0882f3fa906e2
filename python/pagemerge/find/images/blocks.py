"""The memory of a guest in a stream of QEMU: blocks of pages, and the place of each page.

The stream sends pages in any order and some of them several times, so each page has a number of 8
bytes: its place in the file. They lie in memory that takes room only where a page was sent.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pagemerge.errors import OutOfMemory
from pagemerge.find.images.file import ImageFile
from pagemerge.find.images.layout import NO_PAGE
from pagemerge.find.sources import STEP
from pagemerge.model import PAGE_SIZE

Int64s = NDArray[np.int64]

UNSENT = 0
"""In ``Blocks.sent``: no page at all; no page lies at the first byte of a stream."""


@dataclass(frozen=True, slots=True)
class Block:
    """A RAM block (QEMU: RAMBlock), for example pc.ram."""

    name: bytes
    first: int
    """Number of its first page of 4096 bytes in the image."""
    length: int
    """Bytes."""


@dataclass(slots=True, eq=False)
class Blocks:
    """A ``Layout``: all blocks, one after the other."""

    blocks: dict[bytes, Block] = field(default_factory=dict)
    total: int = 0
    """Number of pages of all blocks."""
    sent: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    """int64[total]: place of each page, or ``UNSENT``."""
    touched: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    """bool[steps]: some of these ``STEP`` pages was sent."""
    _sent: memoryview = field(default_factory=lambda: memoryview(b"").cast("q"))
    _touched: bytearray = field(default_factory=bytearray)
    """The same memory as ``sent`` and ``touched``: one element of an array costs three times as
    much to set."""
    unsent_place: int = NO_PAGE
    """What an unsent page is: zero in a whole stream, because a page that was never written is."""
    holes: bool = False
    """Places do not ascend."""

    def add(self, name: bytes, length: int) -> Block:
        """Append a block of ``length`` bytes."""
        block = self.blocks[name] = Block(name, self.total, length)
        self.total += -(-length // PAGE_SIZE)
        return block

    def make_room(self, file: ImageFile) -> None:
        """Reserve ``sent`` for all blocks; memory that is not written takes no room."""
        try:
            room = mmap.mmap(-1, max(self.total, 1) * 8, flags=mmap.MAP_PRIVATE)
        except (OSError, OverflowError):
            raise OutOfMemory(
                f"{file.label}: no memory for the places of {self.total} pages", path=str(file.path)
            ) from None
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            room.madvise(mmap.MADV_NOHUGEPAGE)
        self._sent = memoryview(room).cast("q")
        self._touched = bytearray(-(-self.total // STEP))
        self.sent = np.frombuffer(room, np.int64)[: self.total]
        self.touched = np.frombuffer(self._touched, np.bool_)

    def put(self, page: int, place: int, pages: int) -> None:
        """Note the place of ``pages`` consecutive pages; negative places are all the same."""
        step = PAGE_SIZE if place >= 0 else 0
        for at in range(page, page + pages):
            self._sent[at] = place
            self._touched[at // STEP] = 1
            place += step

    def put_all(self, pages: Int64s, places: Int64s | int) -> None:
        """Note the places (int64[n] or one for all) of pages (int64[n]); later ones win."""
        self.sent[pages] = places
        self.touched[pages // STEP] = True

    def unsent_pages(self) -> int:
        """Count pages that were not sent."""
        there = sum(
            int(np.count_nonzero(self.sent[step * STEP : (step + 1) * STEP]))
            for step in np.flatnonzero(self.touched).tolist()
        )
        return self.total - there

    def uniform(self, first: int, count: int) -> int | None:
        """Return as ``Layout.uniform``."""
        steps = self.touched[first // STEP : (first + count - 1) // STEP + 1]
        return None if steps.any() else self.unsent_place

    def places(self, indices: Int64s) -> Int64s:
        """Return as ``Layout.places``."""
        places: Int64s = self.sent[indices]
        places[places == UNSENT] = self.unsent_place
        return places

    def parts(self, indices: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Find as ``Layout.parts``: there are none."""
        none = np.empty(0, np.int64)
        return none, none, none
