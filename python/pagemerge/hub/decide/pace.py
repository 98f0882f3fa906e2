"""Decides how often the hub looks at memory: pure functions.

The hub looks less and less often at a block of 2 MiB that never yields, and less and less often at
a client that does not change.
"""

from __future__ import annotations

from math import ceil, inf, log2

import numpy as np
import numpy.typing as npt

from pagemerge.hub.model import BLOCK
from pagemerge.hub.pages import Pages

MOST_AT_ONCE = 32
"""The most blocks of one look (64 MiB, about 8 ms of reading). Most looks find nothing to read:
then the system call dominates. For many small parts, checking that the process is still the same,
and handing the work to a thread, would take longer than reading."""

FEW = 16
"""Pages that a cycle has to find to be worth it."""

WORTH = 50e-6
"""Processor seconds that finding a page is worth: 10 to 20 times what it costs where most pages are
equal to others."""

NEW = 0.02
"""Processor seconds that looking at new regions is worth, in a cycle."""

FIRST = 1.5e-6
"""Processor seconds that the first look at a page is worth: it takes about as long."""

LOW = 0.02
"""Share of a core for looks that cost more than they find is worth."""

SHORTEST = 0.05
"""The fewest seconds between two cycles."""

MOST_SKIPPED = 63
"""The most looks at its client in which a block is passed over."""

MOST_EMPTY = 5
"""The highest ``quiet`` of an empty block: it is asked about in every 32nd look. Memory that comes
there is mostly noticed before (``is_filling``). Asking in each look would be most of the work of an
idle hub."""

WORTH_ASKING = 0.5
"""Pages by which a client must have grown, for each of its empty blocks, to make asking about all
of them worth it. To ask about one takes about 17 us, a third of what a found page is worth."""

FULFILLED = 0.25
"""Share of the growth that must be found in empty blocks, or else asking was in vain."""

MOST_VAIN = 64
"""How many times ``WORTH_ASKING`` is worth asking after it was in vain again and again."""


def due(pages: Pages, most: int = MOST_AT_ONCE) -> list[tuple[int, int]]:
    """Return the runs of blocks to look at now, as (first page, pages), and count down the wait of
    the others.

    Runs are cut at ``most`` blocks, so that each look is short. If one block is due, the
    look includes its neighbours that have waited half of their time. Otherwise blocks that were due
    at different times would need a look for each block, for ever.
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
        for at in range(0, len(run), most):
            first = int(run[at]) * BLOCK
            behind = int(run[min(at + most, len(run)) - 1]) + 1
            last = min(behind * BLOCK, len(pages.digest))
            runs.append((first, last - first))
    return runs


def _turns(pages: Pages) -> npt.NDArray[np.bool_]:
    """Return which blocks are looked at now: bool[blocks]."""
    turn: npt.NDArray[np.bool_] = pages.wait == 0
    group = np.arange(len(turn)) // MOST_AT_ONCE
    called = np.bincount(group[turn], minlength=len(turn) // MOST_AT_ONCE + 1) > 0
    return turn | called[group] & (2 * pages.wait.astype(np.int64) <= _skipped(pages.quiet))


def _skipped(quiet: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the looks in which blocks are passed over, by those in a row without a yield."""
    skipped: npt.NDArray[np.int64] = np.minimum((1 << quiet.astype(np.int64)) - 1, MOST_SKIPPED)
    return skipped


def settle(
    pages: Pages, first: int, awake: npt.NDArray[np.bool_], empty: npt.NDArray[np.bool_]
) -> None:
    """Note that a look at some blocks is over: pass over those that have long yielded nothing.

    ``first``: the first page of the blocks; ``awake`` bool[blocks]: blocks to look at again soon
    even if they yielded nothing; ``empty`` bool[blocks]: blocks with nothing to look at. ``reward``
    does the same for blocks that have yielded.
    """
    blocks = slice(first // BLOCK, first // BLOCK + len(awake))
    pages.empty[blocks] = empty
    quiet = pages.quiet[blocks]
    quiet[quiet < 16] += 1
    quiet[awake] = 0
    quiet[empty & (quiet > MOST_EMPTY)] = MOST_EMPTY
    pages.wait[blocks] = _skipped(quiet).astype(np.uint8)


def is_filling(grown: int, empty: int, vain: int) -> bool:
    """Return true if a client has grown by so many pages that all its empty blocks are worth asking
    about. ``empty``: how many these are; ``vain``: as ``in_vain`` returns it, 1 in the beginning.
    """
    return grown >= max(empty * WORTH_ASKING * vain, FEW)


def in_vain(vain: int, grown: int, came: int) -> int:
    """Return how many times more a client has to grow the next time, after its empty blocks were
    asked about because it had grown by ``grown`` pages, and ``came`` pages were found.

    Its memory that cannot be merged may grow and shrink all the time.
    """
    return 1 if came >= FULFILLED * grown else min(2 * vain, MOST_VAIN)


def recall(pages: Pages) -> None:
    """Look at empty blocks in the next look, because the client is filling memory."""
    pages.wait[pages.empty] = 0


def reward(pages: Pages, indices: npt.NDArray[np.int64]) -> None:
    """Look at the blocks of these pages again soon, because the pages were merged."""
    blocks = np.unique(indices // BLOCK)
    pages.quiet[blocks] = 0
    pages.wait[blocks] = 0


def rest(worked: float, took: float, share: float) -> float:
    """Return the seconds to rest after work, so that the hub keeps to its share of a core.

    ``worked``: processor seconds; ``took``: seconds that have passed meanwhile; ``share``: how much
    of a core may be used (0 to 1).
    """
    return max(worked / share - took, 0.0)


def patience(worked: float, found: float, came: int, merged: int) -> float:
    """Return the fewest seconds until the next cycle after one that cost more than it found.

    ``worked``: processor seconds of the cycle; ``found``: as for ``pause``. A page is worth
    ``WORTH`` seconds, and new regions (infinite) as much as ``NEW`` and the pages that were
    ``merged`` in the same cycle. ``came``: pages that were looked at for the first time; that is
    worth what it costs (``FIRST``), because most pages that are merged are merged soon after.
    """
    worth = came * FIRST + (WORTH * found if found < inf else NEW + WORTH * merged)
    return 0.0 if worked <= worth else (worked - worth) / LOW


def pause(last: float, found: float, longest: float) -> float:
    """Return the seconds to wait before the next cycle: so long that it finds ``FEW`` pages, if
    they come at the same rate, but at most twice as long as before.

    ``last``: the previous pause in seconds; ``found``: pages that have become worth it meanwhile,
    or were merged; infinite if the next cycle must follow at once.
    """
    most = 2 * last if found <= FEW / 2 else last * FEW / found
    return min(max(most, SHORTEST), longest)


def appointment(looked: float, pause: float, longest: float) -> float:
    """Return when to look at a client again that was looked at at ``looked``: at most ``pause``
    seconds later, at a moment that it shares with other clients.

    These moments are the multiples of the longest pause, and of its half, its quarter and so on, as
    far as ``pause`` is longer. One cycle then serves many clients, though their pauses began at
    different times: a cycle also goes through the records of those that it does not look at.
    """
    if pause <= SHORTEST or looked == -inf:
        return looked + pause
    step = longest * 0.5 ** ceil(log2(longest / pause))
    return (looked + pause) // step * step
