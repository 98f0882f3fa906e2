"""Finds which page of a client maps which slot, where the hub's records do not say or are wrong."""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.hub.model import NO_SLOT, OWN_SLOT
from pagemerge.hub.regions import Region
from pagemerge.hub.store import Store
from pagemerge.hub.turns import FEW, breathe
from pagemerge.linux import text
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from pagemerge.hub.client import Client

MOST_INTERRUPTED = 2
"""Attempts in a row that may find that the client has merged pages meanwhile."""

PAUSE, PAUSES, LONGEST = 1.0, 1000, 60.0
"""A client that gives up merged pages all the time is read again after ``PAUSE`` seconds, or after
``PAUSES`` times the time that reading took if that is longer, but no more than ``LONGEST``."""


@dataclass(slots=True)
class Doubt:
    """Why the records of what a client maps may be wrong, until the hub has read /proc/PID/maps."""

    more: bool = False
    """True if it may map slots without a record: it handed slabs back, or a region with merged
    pages has changed its size."""
    fewer: bool = False
    """True if pages that have a record have left their slabs: the program gave them up. What the
    records still say costs memory and is no danger."""
    interrupted: int = 0
    """Attempts in a row to read the mappings that could not be finished."""
    _later: float = 0.0

    @property
    def is_due(self) -> bool:
        """True if the hub should read the mappings now."""
        return self.more or (self.fewer and time.monotonic() >= self._later)

    def end(self, took: float, fewer: bool) -> None:
        """Each mapping has its record now; ``fewer`` as the field. It took so many seconds."""
        self.more, self.fewer = False, fewer
        self.interrupted = 0
        self._later = time.monotonic() + min(max(PAUSE, took * PAUSES), LONGEST)


class _Mapped:
    """The pages of one region that lie in mappings of slabs."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.start, self.end = region.start, region.start + len(region) * PAGE_SIZE
        self._runs: list[tuple[int, int]] = []

    def adopt(self, start: int, end: int, first: int) -> None:
        """Note that the region's pages in [start, end) map consecutive slots, the one at ``start``
        slot ``first``. What is known of a page that stands on this slot already stays: it may have
        been written since."""
        low, high = max(start, self.start), min(end, self.end)
        at, count = (low - self.start) // PAGE_SIZE, (high - low) // PAGE_SIZE
        slots = np.arange(count, dtype=np.uint32) + np.uint32(first + (low - start) // PAGE_SIZE)
        self._runs.append((at, at + count))
        pages = self.region.pages
        new = np.flatnonzero(pages.under[at : at + count] != slots)
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


async def loses_merged(
    before: dict[int, Region], now: dict[int, Region], *, awaited: bool = False
) -> bool:
    """Return true if pages are merged in a region that is not there any more: a part of it may be
    in a new one, of another size. ``awaited``: see ``breathe``."""
    kept = {id(it) for it in now.values()}
    for number, region in enumerate(before.values(), 1):
        if number % FEW == 0:
            await breathe(awaited=awaited)
        if id(region) not in kept and (region.pages.under.numbers() < OWN_SLOT).any():
            return True
    return False


async def adopt_mappings(client: Client, store: Store) -> None:
    """Learn from /proc/PID/maps which page maps which slot; see ``Doubt``.

    If the client merges pages meanwhile, what was read is old, and the next look reads it again;
    from the third time on the hub does not let others have a turn in between, and forgets nothing
    if it is old. Raises the errors of ``Client.read``; the caller tries again then.
    """
    doubt, began = client.doubt, time.monotonic()
    # An agent that carries out a plan maps something else for a moment.
    busy, before = bool(client.births), (client.plans, len(client.given), client.regions)

    def is_old() -> bool:
        plans, given, regions = before
        same = plans == client.plans and given == len(client.given)
        return busy or not same or client.regions is not regions

    data = await client.read(client.peer.maps)
    doubt.interrupted += 1
    patient = doubt.interrupted <= MOST_INTERRUPTED
    name = _core.SLAB_NAME.encode()
    found = sorted(map(_Mapped, client.regions.values()), key=lambda it: it.start)
    ends = [it.end for it in found]
    for number, line in enumerate(text.lines(data)):
        if number % FEW == 0 and patient:
            await breathe()
            if is_old():
                return
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or name not in fields[5]:
            continue
        slab = store.slabs.get(int(fields[4]))
        if slab is None:
            continue
        start, end = (int(part, 16) for part in fields[0].split(b"-"))
        place = int(fields[2], 16) // PAGE_SIZE
        # A mapping may be longer than its file; behind the end of the file there is no memory.
        end = min(end, start + (slab.pages - place) * PAGE_SIZE)
        first = bisect_right(ends, start)
        while first < len(found) and found[first].start < end:
            found[first].adopt(start, end, slab.base + place)
            first += 1
    for number, region in enumerate(found):
        if number % FEW == 0 and patient:
            await breathe()
        if is_old():
            if patient:
                return
            break
        client.separations += region.forget_others()
    doubt.end(time.monotonic() - began, fewer=is_old())
