"""The regions of a client that may be merged, as its agent lists them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.errors import ProtocolError
from pagemerge.hub import wire
from pagemerge.hub.decide.blocks import UNKNOWN, extent
from pagemerge.hub.model import BLOCK, PAGE_BYTES
from pagemerge.hub.pages import Pages
from pagemerge.hub.slots import GROUP, LARGE, Room, Slots
from pagemerge.model import PAGE_SIZE


@dataclass(slots=True, eq=False)
class Region:
    """A mergeable range of a client."""

    start: int
    pages: Pages
    room: Room | None = None
    """The memory of its records, if it is large."""
    bytes: int = 0
    """Memory that the records of its pages take, by the last ``settle``."""
    changed: int = 0
    """Records of pages that have changed since."""
    huge: bool = False
    """True if the program would have huge pages there without us."""
    closed: bool = False
    """True if nothing may be merged there now: the hub keeps its records of what is."""
    left: int = 0
    """How many times pages of it have left slabs without a plan, as the agent counts."""
    looked: bool = False
    """True if the hub has looked at it before."""
    stale: bool = True
    """True if a look or a merge may have changed which of its blocks can be huge pages."""
    states: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    """u8[whole blocks]: what the hub knows of them (``decide.blocks``); empty if ``huge`` is False.
    """

    def __len__(self) -> int:
        return len(self.pages.digest)

    @classmethod
    def of(cls, start: int, count: int, *, huge: bool = False) -> Region:
        """Return a region of which nothing is known yet; ``huge`` as the field."""
        blocks = -(-count // BLOCK)
        room = Room(_size(count)) if count >= LARGE else None
        made = cls(
            start,
            Pages(
                digest=room.array(count, np.uint64) if room else np.zeros(count, np.uint64),
                standing=room.array(count, np.uint8) if room else np.zeros(count, np.uint8),
                slot=Slots(count, room),
                under=Slots(count, room),
                quiet=np.zeros(blocks, np.uint8),
                wait=np.zeros(blocks, np.uint8),
                empty=np.ones(blocks, np.bool_),
                looked=np.zeros(blocks, np.uint16),
            ),
            room,
            0 if room else count * PAGE_BYTES,
        )
        made.wish(huge)
        return made

    def split(self, index: npt.NDArray[np.int64]) -> None:
        """Note that these pages were merged, or left their slabs: their blocks are small now."""
        self.stale = True
        if self.huge:
            first, blocks = extent(self.start, len(self))
            block = np.unique((index[index >= first] - first) // BLOCK)
            self.states[block[block < blocks]] = UNKNOWN

    def note(self, marks: int, left: int) -> bool:
        """Note what the agent says of it; returns whether pages have left slabs without a plan."""
        known, self.left = self.left, left
        self.closed = bool(marks & _core.WIRE_CLOSED)
        self.wish(bool(marks & _core.WIRE_HUGE))
        return left != known

    def wish(self, huge: bool) -> None:
        """Note whether the program would have huge pages there."""
        if huge != self.huge:
            _, blocks = extent(self.start, len(self))
            self.huge, self.stale = huge, True
            self.states = np.zeros(blocks if huge else 0, np.uint8)

    def settle(self) -> None:
        """Free the memory of records that say nothing, or the same of many pages."""
        self.changed = 0
        if self.room is not None:
            self.pages.slot.settle()
            self.pages.under.settle()
            self.bytes = self.room.free_zeros()


def _size(count: int) -> int:
    """Return the bytes of room for the records of ``count`` pages."""
    groups = -(-count // GROUP)
    return sum(-(-count * it // PAGE_SIZE) for it in (8, 1)) * PAGE_SIZE + 2 * groups * PAGE_SIZE


def checked(rows: npt.NDArray[np.void]) -> int:
    """Return the number of pages in the regions that a client claims, given in order of address.

    Raises ``ProtocolError`` if there cannot be such regions.
    """
    start, pages = rows["start"], rows["pages"]
    most = np.uint64(1 << 56)
    if np.any(start % PAGE_SIZE) or np.any(start >= most) or np.any(pages >= most // PAGE_SIZE):
        raise ProtocolError("it claims regions where no memory can be")
    if not np.all(pages) or np.any(start[1:] < (start + pages * np.uint64(PAGE_SIZE))[:-1]):
        raise ProtocolError("it claims regions that overlap, or are empty")
    if np.any(rows["marks"] & ~np.uint64(wire.MARKS)):
        raise ProtocolError("it claims regions with a mark that nobody knows")
    if len(np.unique(rows["id"])) < len(rows):
        raise ProtocolError("it claims two regions with the same id")
    return int(sum(pages.tolist()))


def admitted(rows: npt.NDArray[np.void], regions: int, pages: int) -> npt.NDArray[np.void]:
    """Return the first of these regions: at most so many, and with at most so many pages."""
    kept: npt.NDArray[np.bool_] = np.cumsum(rows["pages"]) <= max(pages, 0)
    kept[max(regions, 0) :] = False
    return rows[kept]
