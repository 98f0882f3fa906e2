"""Leaves pages that change again and again alone for longer and longer: pure functions.

A page that is merged and soon written again costs two moves, a fault in the program, and a plan,
and saves nothing. Digests cannot predict it: the bytes may be the same at each look. So the history
of the page decides. Each time that a merge did not last, or failed, or that the page changed after
it had stood (stayed the same) for its time, the page has to stand twice as long the next time. A
merge that has lasted (``PAID``) has paid for itself: the hub forgets the history.

This takes no memory, because the record of a look has room for it. In ``Pages.standing`` u8, the
low half counts what has passed since the page began to stand, and the high half how often in a row
standing was in vain (``vain``). For a page that is not merged, the low half counts looks in a row
that saw the same bytes. For a page that has to stand for ``hold`` seconds, it counts only looks
between which the clock has passed a multiple of ``hold``, and one more look is needed: so the page
stands one to two times as long. After that, and for a merged page, it counts multiples of
``1 << PAID``: a state that has lasted two of them was not in vain. Each block remembers the clock
of the last look at it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pagemerge.hub.model import BLOCK, LOOKS
from pagemerge.hub.pages import Pages

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

FREE = 4
"""How often standing may be in vain before a page has to stand longer. These attempts cost little,
and most pages that change a few times do not change after that."""

MOST_VAIN = FREE + 10
"""The highest count of ``vain``: a hold of 1024 seconds."""

PAID = 5
"""A state that has lasted for twice 32 (1 << 5) seconds, or almost, was not in vain."""


def counted(standing: U8) -> U8:
    """Return the count of what has passed since the page began to stand."""
    return standing & np.uint8(LOOKS)


def vain(standing: U8) -> U8:
    """Return how often in a row standing was in vain.

    Beyond ``FREE`` the hold is 2, 4, ... 1024 s.
    """
    return standing >> np.uint8(4)


def needed(standing: U8, looks: int) -> U8:
    """Return the count that a page needs, if ``looks`` are enough for pages without a hold."""
    more: U8 = np.minimum(np.uint8(looks) + (vain(standing) > FREE), LOOKS).astype(np.uint8)
    return more


def is_due(pages: Pages, indices: I64, now: int) -> Bools:
    """Return whether a look at these pages counts: their hold has passed since the look before."""
    steps = np.maximum(vain(pages.standing[indices]), FREE) - np.uint8(FREE)
    due: Bools = (passed(pages, indices, now) >> steps != 0) | (steps == 0)
    return due


def passed(pages: Pages, indices: I64, now: int) -> npt.NDArray[np.uint16]:
    """Return the bits of the clock that differ from the look before: the clock has passed a
    multiple of ``1 << n`` if the result ``>> n`` is not 0.

    ``now``: seconds on the hub's clock, of which 16 bits count.
    """
    return pages.looked[indices // BLOCK] ^ np.uint16(now & 0xFFFF)


def count(pages: Pages, indices: I64) -> None:
    """Count one more for these pages."""
    standing = pages.standing[indices]
    pages.standing[indices] = standing + (counted(standing) < LOOKS)


def begin(pages: Pages, indices: I64) -> None:
    """Start the count anew for these pages, without changing ``vain``."""
    pages.standing[indices] &= np.uint8(LOOKS << 4)


def most_vain(longest: float) -> int:
    """Return the highest count of ``vain`` with which no page stands for more than ``longest``
    seconds. A page stands for up to twice its hold."""
    return min(FREE + int(np.log2(max(longest / 2, 1))), MOST_VAIN)


def begin_anew(pages: Pages, indices: I64, most: int = MOST_VAIN) -> None:
    """Start the count anew for these pages, and count the time before as in vain; ``most``: the
    result of ``most_vain``."""
    more = np.minimum(vain(pages.standing[indices]) + 1, most)
    pages.standing[indices] = (more << 4).astype(np.uint8)


def has_lasted(standing: U8, looks: int) -> Bools:
    """Return which unmerged pages have long been ready to be merged, if ``looks`` are enough."""
    lasted: Bools = counted(standing) >= needed(standing, looks) + np.uint8(2)
    return lasted


def note_lasting(pages: Pages, first: int, merged: Bools, ready: Bools, now: int) -> None:
    """Note the pages from ``first`` on that are still merged, or unchanged and ready to be merged:
    bool[n] both. ``first`` begins a block."""
    blocks = np.arange(first, first + len(merged), BLOCK)
    for block in blocks[passed(pages, blocks, now) >> PAID != 0].tolist():
        part = slice(block - first, block - first + BLOCK)
        known = pages.standing[block : block + len(merged[part])] > 0
        # A merged page with a clean record has no history to forget.
        count(pages, np.flatnonzero(ready[part] | merged[part] & known) + block)
        paid = np.flatnonzero(merged[part] & known) + block
        pages.standing[paid[counted(pages.standing[paid]) > 1]] = 0
