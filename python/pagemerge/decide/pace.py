"""How often to look: pure functions.

A block of 2 MiB that never yields is looked at less and less often, and a hub whose clients do
not change sleeps longer and longer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pagemerge.model import BLOCK, Pages

MOST_AT_ONCE = 32
"""Blocks of one look (64 MiB, some 8 ms of reading). Most find nothing to read: then it is the
asking that costs."""

MOST_SKIPPED = 63
"""Cycles that a block is passed over at the most."""


def due(pages: Pages) -> list[tuple[int, int]]:
    """The runs of blocks to look at in this cycle, as (first page, pages); counts the others down.

    Runs are cut at ``MOST_AT_ONCE`` blocks, so that each look is short.
    """
    ready = np.flatnonzero(pages.wait == 0)
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


def settle(pages: Pages, first: int, awake: npt.NDArray[np.bool_]) -> None:
    """A look at some blocks is over: pass over those that have not yielded for long.

    ``first``: their first page; ``awake`` bool[blocks]: blocks that are looked at again soon
    whatever they yielded. ``reward`` does the same for blocks that have yielded.
    """
    blocks = slice(first // BLOCK, first // BLOCK + len(awake))
    quiet = pages.quiet[blocks]
    quiet[quiet < 16] += 1
    quiet[awake] = 0
    passed = (1 << quiet.astype(np.int64)) - 1
    pages.wait[blocks] = np.minimum(passed, MOST_SKIPPED).astype(np.uint8)


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


def pause(last: float, yielded: bool, longest: float) -> float:
    """Seconds to wait for something new before the next cycle.

    ``last``: the pause before; ``yielded``: whether anything was merged or is new.
    """
    shortest = min(0.05, longest)
    return shortest if yielded else min(max(last * 2, shortest), longest)
