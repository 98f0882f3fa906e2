"""Which pages stay equal long enough to be worth it: pure functions on arrays.

One element a page. ``digest`` u64: 0 not looked at, 1 a page of zeros, else XXH3-64; ``looks``
u8: how many looks in a row saw that digest; ``slot`` u32: what the page maps (``model.NO_SLOT``,
``model.ZERO_SLOT``, or a slot's number).

The merge itself is a look, for it compares every byte, some time after the look that found the
page. So of the looks that are required the last is left to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagemerge.model import ABSENT, BLOCK, NO_SLOT, Pages

MOST_LOOKS = 255
"""Looks are counted up to here."""


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What a look found, in pages."""

    separated: int
    """Mapped a slot, and were written since."""
    volatile: int
    """Changed since the last look."""
    stable: int
    """Became candidates with this look."""
    awake: npt.NDArray[np.bool_]
    """bool[blocks touched]: blocks where pages have come that were not there before."""
    empty: npt.NDArray[np.bool_]
    """bool[blocks touched]: blocks with nothing to look at: untouched, given back, or merged."""


def observe(pages: Pages, first: int, seen: npt.NDArray[np.uint64], required: int) -> Observed:
    """Note a look at ``pages[first : first + len(seen)]`` in place.

    A page that is present and anonymous though it was merged has been written: the hardware
    separated it. ``required`` looks, that of the merge among them, have to see the same; a page
    that has changed does not count the look that saw it so, unless one is enough.
    """
    part = slice(first, first + len(seen))
    digest, looks, slot = pages.digest[part], pages.looks[part], pages.slot[part]
    present = seen != ABSENT
    came = _by_block(present & (digest == ABSENT))
    separated = present & (slot != NO_SLOT)
    slot[separated] = NO_SLOT
    same = present & (seen == digest)
    changed = present & ~same & (digest != ABSENT)
    looks[same & (looks < MOST_LOOKS)] += 1
    looks[present & (digest == ABSENT)] = 1
    looks[changed] = int(required == 1)
    looks[~present] = 0
    digest[:] = seen
    stable = int(np.count_nonzero(present & (looks == before_merge(required))))
    return Observed(
        int(np.count_nonzero(separated)),
        int(np.count_nonzero(changed)),
        stable,
        came,
        ~_by_block(present),
    )


def before_merge(required: int) -> int:
    """How many looks must have seen the same before the merge, for ``required`` in all."""
    return max(required - 1, 1)


def candidates(pages: Pages, required: int) -> npt.NDArray[np.int64]:
    """Indices of the pages that are worth comparing: stable, and not merged yet."""
    stable = pages.looks >= before_merge(required)
    return np.flatnonzero(stable & (pages.slot == NO_SLOT) & (pages.digest != ABSENT))


def forget(pages: Pages, indices: npt.NDArray[np.int64]) -> None:
    """Let pages that could not be merged prove themselves anew."""
    pages.looks[indices] = 0


def _by_block(marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which blocks have a marked page; the first element is the first page of a block."""
    if len(marks) == 0:
        return marks
    return np.bitwise_or.reduceat(marks, np.arange(0, len(marks), BLOCK))
