"""Works out beforehand what merging should save, from the workers' own memory.

The demo looks at all pages twice, and only pages that are the same both times count. One page of
each content must stay, but no page of zeros.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.errors import PagemergeError
from pagemerge.model import PAGE_SIZE

Digests = npt.NDArray[np.uint64]

ABSENT, ZERO = np.uint64(_core.ABSENT), np.uint64(_core.ZERO)


def read_digests(pid: int, areas: Sequence[tuple[int, int]], seed: int) -> Digests:
    """Read digests of all pages in ``areas`` (address, pages) of process ``pid``: uint64, in order.

    Raises ``PagemergeError`` if a page cannot be read.
    """
    threads = len(os.sched_getaffinity(0))
    found = []
    for start, pages in areas:
        out = np.zeros(pages, np.uint64)
        _, unreadable = _core.look(pid, start, pages, seed, out.data, threads)
        if unreadable:
            raise PagemergeError(
                f"{unreadable} of {pages} pages of process {pid} cannot be read",
                pid=pid,
                address=start,
            )
        found.append(out)
    return np.concatenate(found)


def saved_bytes(first: Digests, second: Digests) -> int:
    """Compute the bytes that merging saves, from two looks (uint64 arrays of the same shape)."""
    stable = second[(first == second) & (second != ABSENT)]
    zero = np.count_nonzero(stable == ZERO)
    ordered = np.sort(stable[stable != ZERO])
    beyond_the_first = np.count_nonzero(ordered[1:] == ordered[:-1])
    return int(zero + beyond_the_first) * PAGE_SIZE
