"""The regions of a client that may be merged, as its agent lists them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagemerge.errors import ProtocolError
from pagemerge.hub.model import BLOCK, NO_SLOT, Pages
from pagemerge.model import PAGE_SIZE


@dataclass(slots=True, eq=False)
class Region:
    """A mergeable range of a client."""

    start: int
    pages: Pages
    looked: bool = False
    """True if the hub has looked at it before."""

    def __len__(self) -> int:
        return len(self.pages.digest)

    @classmethod
    def of(cls, start: int, count: int) -> Region:
        """Return a region of which nothing is known yet."""
        blocks = -(-count // BLOCK)
        return cls(
            start,
            Pages(
                digest=np.zeros(count, np.uint64),
                standing=np.zeros(count, np.uint8),
                slot=np.full(count, NO_SLOT, np.uint32),
                under=np.full(count, NO_SLOT, np.uint32),
                quiet=np.zeros(blocks, np.uint8),
                wait=np.zeros(blocks, np.uint8),
                untouched=np.ones(blocks, np.bool_),
                looked=np.zeros(blocks, np.uint16),
            ),
        )


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
    if len(np.unique(rows["id"])) < len(rows):
        raise ProtocolError("it claims two regions with the same id")
    return int(sum(pages.tolist()))
