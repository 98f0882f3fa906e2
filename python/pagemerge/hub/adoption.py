"""Finds which page of a client maps which slot, where the hub has no record of it."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from pagemerge import _core
from pagemerge.hub.client import FEW, Client
from pagemerge.hub.regions import Region
from pagemerge.hub.store import Store
from pagemerge.hub.turns import breathe
from pagemerge.linux import text
from pagemerge.model import PAGE_SIZE

MOST_INTERRUPTED = 2
"""Attempts in a row that may find that the client has merged pages meanwhile."""


async def adopt_mappings(client: Client, store: Store) -> None:
    """Learn from /proc/PID/maps which page maps which slot, after a hub was replaced, or after a
    region with merged pages has changed its size.

    If the client merges pages meanwhile, what was read is old, and the next look reads it again;
    from the third time on the hub does not let others have a turn in between. Raises the errors of
    ``Client.read``; the caller tries again then.
    """
    merges, given, known = client.merges, len(client.given), client.regions
    data = await client.read(client.peer.maps)
    client.interrupted += 1
    if client.interrupted > MOST_INTERRUPTED:
        known = client.regions
    name = _core.SLAB_NAME.encode()
    regions = sorted(known.values(), key=lambda it: it.start)
    ends = [it.start + len(it) * PAGE_SIZE for it in regions]
    for number, line in enumerate(text.lines(data)):
        if number % FEW == 0 and client.interrupted <= MOST_INTERRUPTED:
            await breathe()
            is_old = client.merges != merges or len(client.given) != given
            if is_old or client.regions is not known:
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
        pages = min((end - start) // PAGE_SIZE, slab.pages - place)
        if pages > 0:
            first = bisect_right(ends, start)
            _adopt(regions, first, start, pages, slab.base + place)
    client.adopting, client.interrupted = False, 0


def _adopt(regions: list[Region], number: int, start: int, pages: int, first: int) -> None:
    """Note that consecutive pages from address ``start`` on map consecutive slots.

    ``regions`` are in order of address; ``number``: the first that ends behind ``start``.
    """
    end = start + pages * PAGE_SIZE
    while number < len(regions) and (region := regions[number]).start < end:
        number += 1
        low = max(start, region.start)
        high = min(end, region.start + len(region) * PAGE_SIZE)
        slots = np.arange((high - low) // PAGE_SIZE, dtype=np.uint32)
        slots += np.uint32(first + (low - start) // PAGE_SIZE)
        at = (low - region.start) // PAGE_SIZE
        region.pages.slot[at : at + len(slots)] = slots
        region.pages.under[at : at + len(slots)] = slots
        region.changed += len(slots)
