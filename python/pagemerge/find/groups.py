"""Finds equal elements of a large digest array: one in-place sort, then compares neighbours.

``np.unique`` with indices sorts indirectly and takes 17 s for 20 million digests. This module sorts
the upper bits of the digest, with the index packed below them: that moves 8 bytes for each element,
all in place. Without the bits that the index replaces, different digests may look equal; these few
are separated at the end.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ZERO, sort
from pagemerge.model import Groups

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]


def duplicates(digests: UInt64s, threads: int = 0) -> Groups:
    """Group the elements of ``digests`` (u64[n]) whose value occurs at least twice.

    ``ABSENT`` and ``ZERO`` are left out: the first has no content, and pages of the second need no
    partner. Groups are in ascending order of their digest. In addition to the input this needs at
    most 16 bytes for each element. It sorts with ``threads`` threads; 0 means one for each
    processor that this process may use.
    """
    index_mask = np.uint64((1 << len(digests).bit_length()) - 1)
    keys = _packed(digests, index_mask)
    sort(keys, threads or len(os.sched_getaffinity(0)))
    keys = _without_reserved(keys, digests, index_mask)

    alike = (keys[1:] ^ keys[:-1]) <= index_mask
    repeated = np.zeros(len(keys), np.bool_)
    repeated[1:] = alike
    first = ~repeated
    repeated[:-1] |= alike
    members = (keys[repeated] & index_mask).view(np.int64)
    first = first[repeated]
    del keys, alike, repeated
    return _told_apart(members, first, digests)


def _packed(digests: UInt64s, index_mask: np.uint64) -> UInt64s:
    """Replace the lower bits of each digest by its index: u64[n]."""
    keys = digests & ~index_mask
    step = 1 << 18  # The indices of one step stay in the cache.
    for start in range(0, len(keys), step):
        part = keys[start : start + step]
        part |= np.arange(start, start + len(part), dtype=np.uint64)
    return keys


def _without_reserved(keys: UInt64s, digests: UInt64s, index_mask: np.uint64) -> UInt64s:
    """Remove the elements with a reserved digest: they are among the first of the sorted keys,
    together with digests so small that their upper bits are zero as well."""
    cut = int(np.searchsorted(keys, index_mask, side="right"))
    kept = keys[:cut][digests[keys[:cut]] > ZERO]
    keys[cut - len(kept) : cut] = kept
    return keys[cut - len(kept) :]


def _told_apart(members: Int64s, first: Bools, digests: UInt64s) -> Groups:
    """Split runs of equal upper bits (``first`` marks where each starts) by the whole digest.

    Inside such a run the order is that of the indices, so different digests may alternate.
    """
    values = digests[members]
    differs = values[1:] != values[:-1]
    if np.any(differs & ~first[1:]):
        runs = _bounds(first)
        strays = np.flatnonzero(differs & ~first[1:]) + 1
        mixed = np.zeros(len(runs) - 1, np.bool_)
        mixed[np.searchsorted(runs, strays, side="right") - 1] = True
        where = np.repeat(mixed, np.diff(runs))
        # The sort is stable, so indices stay ascending. Runs stay in place, as their upper bits
        # ascend.
        order = np.argsort(values[where], kind="stable")
        members[where] = members[where][order]
        values[where] = values[where][order]
        first[1:] = values[1:] != values[:-1]
        alone = first & np.append(first[1:], True)
        members, first = members[~alone], first[~alone]
    return Groups(members, _bounds(first))


def _bounds(first: Bools) -> Int64s:
    """Return the positions of the marked elements, and the end: int64[groups + 1]."""
    return np.append(np.flatnonzero(first), len(first)).astype(np.int64, copy=False)
