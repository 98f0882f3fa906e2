"""Finds equal elements of a large digest array: one in-place sort, then compares neighbours.

``np.unique`` with indices sorts indirectly and takes 17 s for 20 million digests. This module sorts
the upper bits of the digest, with the index packed below them: that moves 8 bytes for each element,
all in place. Without the bits that the index replaces, different digests may look equal; these few
are separated at the end.

Everything but the sort runs in steps that stay in the processor's cache, so that the keys and two
marks are all that it needs for each element: 10 bytes, and 8 for each group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ZERO, sort
from pagemerge.model import Groups

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]
Element = TypeVar("Element", bound=np.generic)

STEP = 1 << 15
"""Elements of a step: their keys and temporary arrays stay in the cache."""
PART_BITS = 2
"""``parts`` divides digests by so many of their upper bits."""
WORTH_PARTS = 1 << 18
"""Elements below which memory does not matter."""


def duplicates(digests: UInt64s, threads: int = 0) -> Groups:
    """Group the elements of ``digests`` (u64[n]) whose value occurs at least twice.

    ``ABSENT`` and ``ZERO`` are left out: the first has no content, and pages of the second need no
    partner. Groups are in ascending order of their digest. In addition to the input this needs at
    most 14 bytes for each element. It sorts with ``threads`` threads; 0 means one for each
    processor that this process may use.
    """
    index_mask = _index_mask(digests)
    keys = digests & ~index_mask
    for here in steps(len(keys)):
        keys[here] |= np.arange(here.start, here.stop, dtype=np.uint64)
    sort(keys, _threads(threads))
    return _grouped(_without_reserved(keys, digests, index_mask), digests, index_mask)


def parts(digests: UInt64s, threads: int = 0) -> Iterator[Groups]:
    """Yield the groups that ``duplicates`` finds in several parts, in the same order.

    Each part has the digests with the same upper bits, so that it needs a quarter of the memory:
    4 bytes for each element, if no digest is much more frequent than others, and if the caller
    forgets each part before it asks for the next.
    """
    if len(digests) < WORTH_PARTS:
        yield duplicates(digests, threads)
        return
    index_mask, shift = _index_mask(digests), np.uint64(64 - PART_BITS)
    sizes = np.zeros(1 << PART_BITS, np.int64)
    for here in steps(len(digests)):
        values = digests[here]
        sizes += np.bincount((values >> shift).view(np.int64), minlength=len(sizes))
        sizes[0] -= np.count_nonzero(values <= ZERO)
    for number in np.flatnonzero(sizes):
        yield _grouped(_part(digests, number, int(sizes[number]), threads), digests, index_mask)


def _part(digests: UInt64s, number: np.int64, size: int, threads: int) -> UInt64s:
    """Return the sorted keys of one part, u64[size]."""
    index_mask, shift = _index_mask(digests), np.uint64(64 - PART_BITS)
    keys, at = np.empty(size, np.uint64), 0
    for here in steps(len(digests)):
        values = digests[here]
        chosen = np.flatnonzero(((values >> shift) == number) & (values > ZERO))
        part = keys[at : at + len(chosen)]
        np.bitwise_and(values[chosen], ~index_mask, out=part)
        part |= (chosen + here.start).view(np.uint64)
        at += len(chosen)
    sort(keys, _threads(threads))
    return keys


def steps(end: int, start: int = 0) -> Iterator[slice]:
    """Cut the elements from ``start`` to ``end`` into slices of at most ``STEP``."""
    for at in range(start, end, STEP):
        yield slice(at, min(at + STEP, end))


def _threads(threads: int) -> int:
    return threads or len(os.sched_getaffinity(0))


def _index_mask(digests: UInt64s) -> np.uint64:
    """Return the lower bits of a key, in which its index lies."""
    return np.uint64((1 << len(digests).bit_length()) - 1)


def _without_reserved(keys: UInt64s, digests: UInt64s, index_mask: np.uint64) -> UInt64s:
    """Remove the elements with a reserved digest: they are among the first of the sorted keys,
    together with digests so small that their upper bits are zero as well."""
    cut = int(np.searchsorted(keys, index_mask, side="right"))
    at = cut
    for here in reversed(list(steps(cut))):
        part = keys[here]
        part = part[digests[part] > ZERO]
        keys[at - len(part) : at] = part
        at -= len(part)
    return keys[at:]


def _grouped(keys: UInt64s, digests: UInt64s, index_mask: np.uint64) -> Groups:
    """Group the elements of sorted ``keys``, which this call uses up."""
    first = np.ones(len(keys) + 1, np.bool_)
    for here in steps(len(keys) - 1):
        below = keys[here]
        above = keys[here.start + 1 : here.stop + 1]
        np.greater(above ^ below, index_mask, out=first[here.start + 1 : here.stop + 1])
    repeated = ~(first[:-1] & first[1:])
    keys, first = _kept(keys, repeated), _kept(first[:-1], repeated)
    keys &= index_mask
    return _told_apart(keys.view(np.int64), first, digests)


def _kept(values: NDArray[Element], mask: Bools) -> NDArray[Element]:
    """Keep the elements that ``mask`` marks, in place; returns the array, or a small copy."""
    at = 0
    for here in steps(len(values)):
        part = values[here][mask[here]]
        values[at : at + len(part)] = part
        at += len(part)
    return values[:at].copy() if at < len(values) // 4 else values[:at]


def _told_apart(members: Int64s, first: Bools, digests: UInt64s) -> Groups:
    """Split runs of equal upper bits (``first`` marks where each starts) by the whole digest.

    Inside such a run the order is that of the indices, so different digests may alternate.
    """
    strays = _strays(members, first, digests)
    if len(strays):
        runs = _bounds(first)
        mixed = np.zeros(len(runs) - 1, np.bool_)
        mixed[np.searchsorted(runs, strays, side="right") - 1] = True
        where = np.repeat(mixed, np.diff(runs))
        del runs
        chosen = members[where]
        values = digests[chosen]
        # The sort is stable, so indices stay ascending. Runs stay in place, as their upper bits
        # ascend.
        order = np.argsort(values, kind="stable")
        members[where], values = chosen[order], values[order]
        first[where] = np.append(True, values[1:] != values[:-1])
        shared = ~(first & np.append(first[1:], True))
        members, first = _kept(members, shared), _kept(first, shared)
    return Groups(members, _bounds(first))


def _strays(members: Int64s, first: Bools, digests: UInt64s) -> Int64s:
    """Find members whose digest is not that of the member before in the same run: int64[s]."""
    found = [np.empty(0, np.int64)]
    for here in steps(len(members), 1):
        values = digests[members[here.start - 1 : here.stop]]
        strays = np.flatnonzero((values[1:] != values[:-1]) & ~first[here])
        found.append(strays + here.start)
    return np.concatenate(found)


def _bounds(first: Bools) -> Int64s:
    """Return the positions of the marked elements, and the end: int64[groups + 1]."""
    bounds = np.empty(np.count_nonzero(first) + 1, np.int64)
    at = 0
    for here in steps(len(first)):
        found = np.flatnonzero(first[here])
        bounds[at : at + len(found)] = found + here.start
        at += len(found)
    bounds[at] = len(first)
    return bounds
