"""What the hub remembers of the pages of a region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagemerge.hub.slots import Slots


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """The hub's records of a region, changed in place: at most ``PAGE_BYTES`` a page, and
    ``BLOCK_BYTES`` a block. What is zero in a large region takes no memory."""

    digest: npt.NDArray[np.uint64]
    """u64[n]: the digest last seen; ``ABSENT``, ``ZERO`` or XXH3-64."""
    standing: npt.NDArray[np.uint8]
    """u8[n]: looks in a row that saw this digest (low half), and how often in a row the page
    changed in spite of that (high half); see ``decide.restless``."""
    slot: Slots
    """u32[n]: what the page maps; a slot's number in its domain, ``ZERO_SLOT`` or ``NO_SLOT``."""
    under: Slots
    """u32[n]: the slot whose mapping is under the page, though the page may have been written
    since; as long as the mapping exists, its slab cannot be freed."""
    quiet: npt.NDArray[np.uint8]
    """u8[blocks]: looks in a row without a yield."""
    wait: npt.NDArray[np.uint8]
    """u8[blocks]: looks at the client in which the block is still passed over."""
    empty: npt.NDArray[np.bool_]
    """bool[blocks]: the last look found nothing there: untouched, given back, or merged."""
    looked: npt.NDArray[np.uint16]
    """u16[blocks]: time of the last look, in seconds on the hub's clock, of which 16 bits count."""
