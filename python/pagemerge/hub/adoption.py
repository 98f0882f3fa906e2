"""Finds which page of a client maps which slot, where the hub's records do not say or are wrong."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.hub.client import Client
from pagemerge.hub.model import NO_SLOT, OWN_SLOT
from pagemerge.hub.regions import Region
from pagemerge.hub.store import Store
from pagemerge.hub.turns import FEW, breathe
from pagemerge.linux import text
from pagemerge.model import PAGE_SIZE

MOST_INTERRUPTED = 2
"""Attempts in a row that give up because what they have read is old."""


class _Mapped:
    """The pages of one region that lie in mappings of slabs."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.start, self.end = region.start, region.start + len(region) * PAGE_SIZE
        self._runs: list[tuple[int, int]] = []

    def adopt(self, start: int, end: int, first: int, *, is_old: bool) -> None:
        """Note that the region's pages in [start, end) map consecutive slots, the one at ``start``
        slot ``first``; ``is_old``: they did, and those with a record may map others by now.

        What is known of a page that stands on this slot already stays: it may have been written
        since.
        """
        low, high = max(start, self.start), min(end, self.end)
        at, count = (low - self.start) // PAGE_SIZE, (high - low) // PAGE_SIZE
        slots = np.arange(count, dtype=np.uint32) + np.uint32(first + (low - start) // PAGE_SIZE)
        self._runs.append((at, at + count))
        pages = self.region.pages
        under = pages.under[at : at + count]
        new = np.flatnonzero(under == NO_SLOT if is_old else under != slots)
        pages.slot[at + new] = pages.under[at + new] = slots[new]
        self.region.changed += len(new)

    def forget_others(self) -> int:
        """Forget the slots of pages that lie in no mapping of a slab; returns how many of these
        were merged."""
        pages, mapped = self.region.pages, np.zeros(len(self.region), np.bool_)
        for first, end in self._runs:
            mapped[first:end] = True
        gone: npt.NDArray[np.int64] = np.flatnonzero((pages.under[:] < OWN_SLOT) & ~mapped)
        merged = gone[pages.slot[gone] < OWN_SLOT]
        pages.slot[merged], pages.under[gone] = NO_SLOT, NO_SLOT
        self.region.changed += len(gone)
        return len(merged)


async def adopt_mappings(client: Client, store: Store) -> None:
    """Learn from /proc/PID/maps which page maps which slot; see ``Doubt``.

    If the client merges pages meanwhile, what was read is old, and a later look reads it again. The
    third attempt in a row makes do with it: it forgets nothing from then on, and believes what was
    read only of pages without a record. Raises the errors of ``Client.read``; the caller tries
    again then.
    """
    doubt, began = client.doubt, time.monotonic()
    more, fewer = doubt.begin()
    try:
        complete = await _adopt(client, store)
    except BaseException:
        doubt.note(more=more, fewer=fewer)
        raise
    else:
        if complete is None:
            doubt.interrupted += 1
            doubt.note(more=more, fewer=fewer)
        else:
            doubt.interrupted = 0
            doubt.note(fewer=not complete)
    finally:
        doubt.end(time.monotonic() - began)


async def _adopt(client: Client, store: Store) -> bool | None:
    """Return whether all records are right now; None if this has given up."""
    # An agent that carries out a plan may map something else for a moment.
    busy = bool(client.births) or client.link.owes
    plans, regions, doubt = client.plans, client.regions, client.doubt

    def is_old() -> bool:
        return busy or doubt.more or client.plans != plans or client.regions is not regions

    data = await client.read(client.peer.maps)
    if client.regions is not regions:
        return None
    makes_do = doubt.interrupted >= MOST_INTERRUPTED
    found, handled = [], 0
    for region in regions.values():  # in order of address
        if (handled := handled + 1) % FEW == 0:
            await breathe()
        found.append(_Mapped(region))
    ends = [it.end for it in found]
    for start, end, first in _mappings(data, store):
        number = bisect_right(ends, start)
        while True:
            if (handled := handled + 1) % FEW == 0:
                await breathe()
                if is_old() and not makes_do:
                    return None
            if number == len(found) or found[number].start >= end:
                break
            found[number].adopt(start, end, first, is_old=is_old())
            number += 1
    for number, mapped in enumerate(found):
        if number % FEW == 0:
            await breathe()
        if is_old():
            return False if makes_do and client.regions is regions else None
        client.separations += mapped.forget_others()
    return True


def _mappings(data: bytes, store: Store) -> Iterator[tuple[int, int, int]]:
    """Yield start, end and the first slot of each line that is a mapping of a slab."""
    name = _core.SLAB_NAME.encode()
    for line in text.lines(data):
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or name not in fields[5]:
            continue
        if (slab := store.slabs.get(int(fields[4]))) is None:
            continue
        start, end = (int(part, 16) for part in fields[0].split(b"-"))
        place = int(fields[2], 16) // PAGE_SIZE
        # A mapping may be longer than its file; behind the end of the file there is no memory.
        yield start, min(end, start + (slab.pages - place) * PAGE_SIZE), slab.base + place
