"""Decides how much background work at once, and how long to rest: pure functions.

While a slice of work runs, others wait for a processor for some of that time. Part of this waiting
is not of our making, but nobody can tell which part. So all of it counts, up to the processor time
of the slice: it cannot have kept others waiting for longer. The slice is followed by a rest, until
this waiting is the allowed share of the time since the slice began. On a host with a free processor
nobody waits, and there is no rest. On a host that is always busy, the hub works for the allowed
share of the time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pagemerge._core import WIRE_OWN
from pagemerge.model import PAGE_SIZE

TARGET = 0.00025
"""Seconds that a client may take for one request. Its agent then holds a processor for so long: a
thread that has just used more than its share takes it from nobody when it wakes up."""

FEWEST, MOST = 64, 8192
"""Pages of a request: a batch of the barrier, and as many as without a budget."""

LONGEST = 1.0
"""The most seconds of a rest: merging goes on, however busy the host is."""


def rest(took: float, stalled: float, share: float) -> float:
    """Return the seconds to rest after a slice of work.

    ``took``: seconds of the slice; ``stalled``: seconds of it in which others waited for a
    processor; ``share``: the part of the time, above 0 and up to 1, in which they may.
    """
    return min(max(stalled / share - took, 0.0), LONGEST)


def lot(pages: int, asked: int, took: float) -> int:
    """Return how many pages the next request may have, so that it takes about ``TARGET``.

    ``pages``: as many as the last request could have had; ``asked``: those that it had; ``took``:
    the seconds until its answer. The number at most doubles, and at most halves.
    """
    fit = asked * TARGET / max(took, 1e-6)
    if fit > pages and asked < pages:
        return pages  # it was small, and quick: that tells nothing about larger ones
    return int(min(max(fit, pages / 2, FEWEST), pages * 2, MOST))


def split(rows: npt.NDArray[np.void], most: int) -> npt.NDArray[np.void]:
    """Split runs, rows of ``wire.RUN``, so that none has more than ``most`` pages.

    The kernel joins the mappings again: they follow each other in the memory and in the slab.
    """
    pages = rows["pages"].astype(np.int64)
    pieces = -(-pages // most)
    if len(rows) == 0 or pieces.max() <= 1:
        return rows
    found = np.repeat(rows, pieces)
    number = np.arange(len(found)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    before = number * most
    found["pages"] = np.minimum(np.repeat(pages, pieces) - before, most)
    found["address"] += (before * PAGE_SIZE).astype(np.uint64)
    moves = (found["slab"] != 0) & (found["slab"] != WIRE_OWN)
    found["slot"] += np.where(moves, before, 0).astype(found["slot"].dtype)
    return found
