"""Finds, after a hub was replaced, which page of a client maps which slot of a handed-back slab."""

from __future__ import annotations

import numpy as np

from pagemerge import _core
from pagemerge.hub.client import Client
from pagemerge.hub.store import Store
from pagemerge.linux import text
from pagemerge.model import PAGE_SIZE


async def adopt_mappings(client: Client, store: Store) -> None:
    """Learn from /proc/PID/maps which page maps which slot, after a hub was replaced.

    Raises the errors of ``Client.read``; the caller tries again then.
    """
    data = await client.read(client.peer.maps)
    client.adopting = False
    name = _core.SLAB_NAME.encode()
    for line in text.lines(data):
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
            _adopt(client, start, pages, slab.base + place)


def _adopt(client: Client, start: int, pages: int, first: int) -> None:
    """Note that consecutive pages from address ``start`` on map consecutive slots."""
    end = start + pages * PAGE_SIZE
    for region in client.regions.values():
        low = max(start, region.start)
        high = min(end, region.start + len(region) * PAGE_SIZE)
        if low >= high:
            continue
        slots = np.arange((high - low) // PAGE_SIZE, dtype=np.uint32)
        slots += np.uint32(first + (low - start) // PAGE_SIZE)
        at = (low - region.start) // PAGE_SIZE
        region.pages.slot[at : at + len(slots)] = slots
        region.pages.under[at : at + len(slots)] = slots
        region.changed += len(slots)
