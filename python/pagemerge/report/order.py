"""Orders the rows of a matrix so that clusters show: average linkage, then the best way round.

The two clusters that are most alike on average join, again and again (Sokal and Michener, 1958).
When two join, each may be turned round: their ends that are most alike meet. Pure functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def likeness(common: Floats) -> Floats:
    """Return how alike each two rows are, from 0 to 1: float64[n, n].

    ``common``: what each two have in common, symmetric; the diagonal does not count. Two rows are
    alike by the part that they have of the most that either has in common with any row, so that a
    cluster of small groups counts as much as one of large groups.
    """
    found = common.astype(np.float64)
    np.fill_diagonal(found, 0.0)
    most = found.max(axis=1, initial=0.0)
    scale = np.sqrt(np.outer(most, most))
    return np.divide(found, scale, out=np.zeros_like(found), where=scale > 0)


def clustered(common: Floats) -> list[int]:
    """Return the order of the rows in which clusters stand together.

    ``common``: as of ``likeness``; it takes n^3 steps in numpy, so n is small: 50, say. Rows with
    nothing in common with others stay in their order.
    """
    alike = likeness(common)
    chains = [[at] for at in range(len(alike))]
    mean = alike.copy()
    np.fill_diagonal(mean, -1.0)
    while len(chains) > 1:
        one, other = sorted(divmod(int(np.argmax(mean)), len(chains)))
        counts = len(chains[one]), len(chains[other])
        joined = np.average(mean[[one, other]], axis=0, weights=counts)
        mean[one], mean[:, one] = joined, joined
        mean[one, one] = -1.0
        mean = np.delete(np.delete(mean, other, axis=0), other, axis=1)
        chains[one] = _joined(chains[one], chains.pop(other), alike)
    return chains[0] if chains else []


def _joined(one: list[int], other: list[int], alike: Floats) -> list[int]:
    """Join two chains at the ends that are most alike; one that fits either way is not turned."""
    ways = ((one, other), (one[::-1], other), (one, other[::-1]), (one[::-1], other[::-1]))
    first, second = max(ways, key=lambda way: alike[way[0][-1], way[1][0]])
    return first + second


def levels(common: Floats, count: int, factor: float = 3.0) -> NDArray[np.int64]:
    """Return the shade of each cell: int64[n, n], 0 for nothing in common, ``count`` for most.

    Each level begins at the ``factor``-th part of the next; what lies below the last is 1.
    """
    most = common.max(initial=0.0)
    found = np.zeros(common.shape, np.int64)
    there = common > 0
    steps = np.floor(np.log(most / common[there]) / np.log(factor) + 1e-9)
    found[there] = np.maximum(count - steps.astype(np.int64), 1)
    return found
