"""Decides which pages stay equal long enough to be worth merging: pure functions on arrays.

One element a page. ``digest`` u64: 0 not looked at, 1 a page of zeros, else XXH3-64; ``standing``
u8: how many looks in a row saw that digest, and how often standing was in vain (``restless``);
``slot`` u32: what the page maps (``model.NO_SLOT``, ``model.ZERO_SLOT``, or a slot's number).

The merge itself counts as a look, because it compares every byte, some time after the look that
found the page. So the merge is the last of the required looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagemerge.hub.decide import restless
from pagemerge.hub.model import BLOCK, LOOKS, NO_SLOT
from pagemerge.hub.pages import Pages
from pagemerge.model import ABSENT


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What a look found, in pages."""

    changed: int
    """Pages whose digest is another one."""
    separated: int
    """Pages that mapped a slot and were written since."""
    volatile: int
    """Pages that changed since the last look."""
    stable: int
    """Pages that became candidates with this look, for a first attempt."""
    again: int
    """Pages that became candidates with this look, for another attempt."""
    came: int
    """Pages that are present now and were not before."""
    awake: npt.NDArray[np.bool_]
    """bool[blocks touched]: blocks with pages that are present now and were not before."""
    empty: npt.NDArray[np.bool_]
    """bool[blocks touched]: blocks with nothing to look at: untouched, given back, or merged."""


def observe(
    pages: Pages,
    first: int,
    seen: npt.NDArray[np.uint64],
    required: int,
    now: int,
    most_vain: int = restless.MOST_VAIN,
) -> Observed:
    """Note a look at ``pages[first : first + len(seen)]``, whole blocks, in place.

    A merged page that is present and anonymous again has been written: the write separated it.
    ``required`` looks, including that of the merge, have to see the same bytes. The look that finds
    a page changed does not count, unless one look is enough. A page that changes again and again
    has to stand longer; see ``restless``, also for ``most_vain``. ``now``: seconds on the hub's
    clock.
    """
    part = slice(first, first + len(seen))
    blocks = slice(first // BLOCK, -(-(first + len(seen)) // BLOCK))
    digest, standing = pages.digest[part], pages.standing[part]
    if not (seen.any() or digest.any() or standing.any()):
        # Never touched, given back, or merged without a history: most of a settled client.
        pages.looked[blocks] = now & 0xFFFF
        none = np.zeros(blocks.stop - blocks.start, np.bool_)
        return Observed(0, 0, 0, 0, 0, 0, awake=none, empty=~none)
    slot = pages.slot[part]
    changed = np.flatnonzero(seen != digest)
    enough = before_merge(required)
    present, known = seen != ABSENT, digest != ABSENT
    came, written = present & ~known, present & (slot != NO_SLOT)
    same = present & (seen == digest)
    other = present & known & ~same
    was_ready = restless.counted(standing) >= restless.needed(standing, enough)
    in_vain = written | other & was_ready & ~restless.has_lasted(standing, enough)
    merged = ~present & (slot != NO_SLOT)
    restless.note_lasting(pages, first, merged, same & was_ready, now)
    restless.begin(pages, np.flatnonzero((came | other) & ~in_vain) + first)
    restless.begin_anew(pages, np.flatnonzero(in_vain) + first, most_vain)
    standing[~present & (slot == NO_SLOT) & (standing > 0)] &= np.uint8(LOOKS << 4)
    pages.slot[np.flatnonzero(written) + first] = NO_SLOT
    digest[changed] = seen[changed]  # to write what is there would take memory
    waits = (present if required == 1 else same | came) & ~(same & was_ready)
    waiting = np.flatnonzero(waits) + first
    restless.count(pages, waiting[restless.is_due(pages, waiting, now)])
    pages.looked[blocks] = now & 0xFFFF
    is_ready = restless.counted(standing) >= restless.needed(standing, enough)
    ready = present & is_ready & ~(was_ready & same)
    again = int(np.count_nonzero(ready & is_another(pages.under[part], standing)))
    return Observed(
        changed=len(changed),
        separated=int(np.count_nonzero(written)),
        volatile=int(np.count_nonzero(other)),
        stable=int(np.count_nonzero(ready)) - again,
        again=again,
        came=int(np.count_nonzero(came)),
        awake=_by_block(came),
        empty=~_by_block(present),
    )


def before_merge(required: int) -> int:
    """Return how many of the ``required`` looks must see the same bytes before the merge."""
    return max(required - 1, 1)


def candidates(pages: Pages, required: int, *, again: bool = True) -> npt.NDArray[np.int64]:
    """Return the indices of the pages that are worth comparing: stable, and not merged.

    ``again``: also those for which it is another attempt (``is_another``).
    """
    enough = restless.needed(pages.standing, before_merge(required))
    stable = restless.counted(pages.standing) >= enough
    index = np.flatnonzero(stable & (pages.digest != ABSENT))
    chosen = pages.slot[index] == NO_SLOT
    if not again:
        chosen &= ~is_another(pages.under[index], pages.standing[index])
    found: npt.NDArray[np.int64] = index[chosen]
    return found


def is_another(
    under: npt.NDArray[np.uint32], standing: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Return which merges would be another attempt: the page was merged before and written since,
    or standing was in vain more than once. bool[n]"""
    another: npt.NDArray[np.bool_] = (under != NO_SLOT) | (restless.vain(standing) > 1)
    return another


def _by_block(marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which blocks have a marked page; the first element is the first page of a block."""
    if len(marks) == 0:
        return marks
    return np.bitwise_or.reduceat(marks, np.arange(0, len(marks), BLOCK))
