"""How often to look: pure functions.

A block of 2 MiB that never yields is looked at less and less often, and a hub whose clients do
not change sleeps longer and longer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pagemerge.hub.model import BLOCK, Pages

MOST_AT_ONCE = 32
"""Blocks of one look (64 MiB, some 8 ms of reading). Most find nothing to read: then it is the
asking that costs."""

FEW = 16
"""Pages that a cycle has to find to be worth it."""

SHORTEST = 0.05
"""Seconds between two cycles at the least."""

MOST_SKIPPED = 63
"""Cycles that a block is passed over at the most."""

MOST_EMPTY = 3
"""``quiet`` of a block with nothing in it at the most: what comes there is new, and worth finding
within eight cycles. Asking each time whether something has come was most of an idle hub's work."""


def due(pages: Pages) -> list[tuple[int, int]]:
    """The runs of blocks to look at in this cycle, as (first page, pages); counts the others down.

    Runs are cut at ``MOST_AT_ONCE`` blocks, so that each look is short. Where one block's turn has
    come, its neighbours that have waited half of theirs come along: turns that have drifted apart
    would be a look for each block, for ever.
    """
    if len(pages.wait) == 1:  # most regions, where there are many
        if waits := int(pages.wait[0]):
            pages.wait[0] = waits - 1
            return []
        return [(0, len(pages.digest))]
    ready = np.flatnonzero(_turns(pages))
    pages.wait[pages.wait > 0] -= 1
    if len(ready) == 0:
        return []
    cuts = np.flatnonzero(np.diff(ready) != 1) + 1
    runs = []
    for run in np.split(ready, cuts):
        for at in range(0, len(run), MOST_AT_ONCE):
            first = int(run[at]) * BLOCK
            behind = int(run[min(at + MOST_AT_ONCE, len(run)) - 1]) + 1
            last = min(behind * BLOCK, len(pages.digest))
            runs.append((first, last - first))
    return runs


def _turns(pages: Pages) -> npt.NDArray[np.bool_]:
    """Which blocks are looked at now: bool[blocks]."""
    turn: npt.NDArray[np.bool_] = pages.wait == 0
    group = np.arange(len(turn)) // MOST_AT_ONCE
    called = np.bincount(group[turn], minlength=len(turn) // MOST_AT_ONCE + 1) > 0
    return turn | called[group] & (2 * pages.wait.astype(np.int64) <= _skipped(pages.quiet))


def _skipped(quiet: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Cycles that blocks are passed over, by the looks in a row without a yield."""
    skipped: npt.NDArray[np.int64] = np.minimum((1 << quiet.astype(np.int64)) - 1, MOST_SKIPPED)
    return skipped


def settle(
    pages: Pages, first: int, awake: npt.NDArray[np.bool_], empty: npt.NDArray[np.bool_]
) -> None:
    """A look at some blocks is over: pass over those that have not yielded for long.

    ``first``: their first page; ``awake`` bool[blocks]: blocks that are looked at again soon
    whatever they yielded; ``empty`` bool[blocks]: with nothing to look at. ``reward`` does the same
    for blocks that have yielded.
    """
    blocks = slice(first // BLOCK, first // BLOCK + len(awake))
    pages.untouched[blocks] &= empty
    quiet = pages.quiet[blocks]
    quiet[quiet < 16] += 1
    quiet[awake] = 0
    quiet[empty & (quiet > MOST_EMPTY)] = MOST_EMPTY
    pages.wait[blocks] = _skipped(quiet).astype(np.uint8)


def recall(pages: Pages) -> None:
    """Memory is being filled somewhere: ask with the next cycle whether it is here, too.

    Programs that do the same work fill their memory at the same time, and what is found together
    is merged together, by all of them at once.
    """
    pages.wait[pages.untouched] = 0


def reward(pages: Pages, indices: npt.NDArray[np.int64]) -> None:
    """Pages were merged: look at their blocks again soon."""
    blocks = np.unique(indices // BLOCK)
    pages.quiet[blocks] = 0
    pages.wait[blocks] = 0


def rest(worked: float, took: float, share: float) -> float:
    """Seconds to rest after work, whatever there is to do, so that its share of a core holds.

    ``worked``: processor seconds; ``took``: seconds that have passed meanwhile; ``share``: how much
    of a core may be used (0 to 1).
    """
    return max(worked / share - took, 0.0)


def pause(last: float, found: float, longest: float) -> float:
    """Seconds to wait before the next cycle: so long that it finds ``FEW`` pages, if they come as
    they did, but no more than twice as long as before.

    ``last``: the pause before; ``found``: pages that have become worth it meanwhile, or were
    merged; infinite where the next cycle is to follow at once.
    """
    most = 2 * last if found <= FEW / 2 else last * FEW / found
    return min(max(most, SHORTEST), longest)
