"""Pages that change again and again are left alone for longer and longer: pure functions.

A page that is merged and soon written again costs two moves, a fault of the program's, and a plan,
and saves nothing. Digests cannot foresee it: the bytes may be the same at each look. So it is told
from what became of the page before. Each time that a merge did not last, or could not be made, or
that the page changed though it had stood as long as it had to, it has to stand twice as long the
next time. A merge that has lasted (``PAID``) has paid for itself: all is forgotten.

This takes no memory: the record of a look has room for it. ``Pages.standing`` u8: the low half
counts what has gone by since the page began to stand as it does, the high half how often in a row
that was in vain (``vain``). Of a page that is not merged, looks in a row are counted that saw the
same; of one that has to stand for ``hold`` seconds, only looks between which the clock has passed a
multiple of that, and one more of them. So it stands one to two times as long. From then on, and of
a merged page, multiples of ``1 << PAID`` are counted: what has lasted two of them was not in vain.
Of the clock it is remembered when a block was looked at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pagemerge.hub.model import BLOCK, LOOKS, Pages

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

FREE = 4
"""How often standing may be in vain before a page has to stand longer: that costs little, and most
pages that change a few times have changed for good."""

MOST_VAIN = FREE + 10
"""``vain`` counts up to here: a hold of 1024 seconds."""

PAID = 5
"""What has lasted for twice 32 (1 << 5) seconds, or almost, was not in vain."""


def counted(standing: U8) -> U8:
    """What has gone by since the page began to stand."""
    return standing & np.uint8(LOOKS)


def vain(standing: U8) -> U8:
    """How often in a row standing was in vain. Beyond ``FREE`` the hold is 2, 4, ... 1024 s."""
    return standing >> np.uint8(4)


def needed(standing: U8, looks: int) -> U8:
    """What has to be counted where ``looks`` are enough for other pages."""
    more: U8 = np.minimum(np.uint8(looks) + (vain(standing) > FREE), LOOKS).astype(np.uint8)
    return more


def is_due(pages: Pages, indices: I64, now: int) -> Bools:
    """Whether a look at these pages counts: their hold has gone by since the one before."""
    steps = np.maximum(vain(pages.standing[indices]), FREE) - np.uint8(FREE)
    due: Bools = (passed(pages, indices, now) >> steps != 0) | (steps == 0)
    return due


def passed(pages: Pages, indices: I64, now: int) -> npt.NDArray[np.uint16]:
    """What has changed of the clock since the look before: it has passed a multiple of ``1 << n``
    if this ``>> n`` is not 0.

    ``now``: seconds on the hub's clock, of which 16 bits count.
    """
    return pages.looked[indices // BLOCK] ^ np.uint16(now & 0xFFFF)


def count(pages: Pages, indices: I64) -> None:
    """One more has gone by."""
    standing = pages.standing[indices]
    pages.standing[indices] = standing + (counted(standing) < LOOKS)


def begin(pages: Pages, indices: I64) -> None:
    """From now on these pages stand as they do; that is held against none of them."""
    pages.standing[indices] &= np.uint8(LOOKS << 4)


def most_vain(longest: float) -> int:
    """How far ``vain`` counts where no page is to stand for more than ``longest`` seconds, which is
    up to twice its hold."""
    return min(FREE + int(np.log2(max(longest / 2, 1))), MOST_VAIN)


def begin_anew(pages: Pages, indices: I64, most: int = MOST_VAIN) -> None:
    """From now on these pages stand as they do, and what was before was in vain; ``most``: as of
    ``most_vain``."""
    more = np.minimum(vain(pages.standing[indices]) + 1, most)
    pages.standing[indices] = (more << 4).astype(np.uint8)


def has_lasted(standing: U8, looks: int) -> Bools:
    """Which pages, not merged, have long been ready to be where ``looks`` are enough."""
    lasted: Bools = counted(standing) >= needed(standing, looks) + np.uint8(2)
    return lasted


def note_lasting(pages: Pages, first: int, merged: Bools, ready: Bools, now: int) -> None:
    """Pages from ``first`` on, which begins a block, are merged still, or unchanged and ready to be
    merged: bool[n] both."""
    blocks = np.arange(first, first + len(merged), BLOCK)
    for block in blocks[passed(pages, blocks, now) >> PAID != 0].tolist():
        part = slice(block - first, block - first + BLOCK)
        known = pages.standing[block : block + len(merged[part])] > 0
        # A merged page with a clean record has nothing to be forgotten.
        count(pages, np.flatnonzero(ready[part] | merged[part] & known) + block)
        paid = np.flatnonzero(merged[part] & known) + block
        pages.standing[paid[counted(pages.standing[paid]) > 1]] = 0
