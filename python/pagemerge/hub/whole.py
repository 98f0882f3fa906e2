"""Has clients make blocks of 2 MiB huge pages.

These are blocks of which little is merged, and blocks that map a whole huge page of a slab.
"""

from __future__ import annotations

import logging
import time

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.hub import wire
from pagemerge.hub.boundary import pass_over
from pagemerge.hub.client import Client
from pagemerge.hub.decide import blocks
from pagemerge.hub.merging import Merger
from pagemerge.hub.model import BLOCK
from pagemerge.hub.regions import Region
from pagemerge.hub.store import Store
from pagemerge.hub.turns import breathe
from pagemerge.model import PAGE_SIZE

log = logging.getLogger("pagemerge.hub")

MOST_AT_ONCE = 8
"""Blocks that a client is told to make huge at once: the kernel copies each of them, which takes
some milliseconds at most, and an answer that takes too long counts as no answer."""

AGAIN = 64
"""Cycles after which the hub tries again to make blocks huge that could not be."""


async def make_whole(merger: Merger) -> None:
    """Have all clients of a domain make blocks huge pages."""
    price = merger.settings.huge_price
    if not price:
        return
    for client in list(merger.members.clients):
        if not client.is_ready or not client.has_barrier:
            continue
        try:
            for region in list(client.regions.values()):
                is_due = region.stale or merger.members.cycles % AGAIN == 0
                if region.huge and not region.closed and is_due:
                    await breathe()
                    made = await _make(merger, client, region, price)
                    client.attention.found += made * BLOCK
        except Exception as error:
            pass_over(client, error)


async def _make(merger: Merger, client: Client, region: Region, price: int) -> int:
    """Do what is due in a region, as far as there is time for it; returns the blocks made huge."""
    first, count = blocks.extent(region.start, len(region))
    if merger.members.cycles % AGAIN == 0:
        region.states[region.states == blocks.REFUSED] = blocks.UNKNOWN
    region.stale = False
    due = blocks.due(region.pages, first, count, price)
    wanted = due.anonymous | _maps_huge(merger.members.store, region, first, due.mapping)
    region.states[~wanted] = blocks.UNKNOWN
    made = 0
    left = np.flatnonzero(wanted & (region.states == blocks.UNKNOWN))
    for at in range(0, len(left), MOST_AT_ONCE):
        if not merger.whole.is_left:
            region.stale = True
            break
        some = left[at : at + MOST_AT_ONCE]
        began = time.monotonic()
        done = await _ask(merger, client, region, first, some)
        merger.whole.spend(time.monotonic() - began)
        region.states[some] = np.where(done, blocks.HUGE, blocks.REFUSED)
        made += int(np.count_nonzero(done))
        if not done.all():
            refused = int(np.count_nonzero(~done))
            log.info("process %d: %d blocks cannot be huge pages now", client.pid, refused)
    return made


def _maps_huge(
    store: Store, region: Region, first: int, mapping: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return which of the blocks ``mapping`` map a huge page of a slab: bool[blocks]."""
    chosen = np.zeros(len(mapping), np.bool_)
    index = np.flatnonzero(mapping)
    ids, places = store.locate(region.pages.slot[first + index * BLOCK])
    for at, slab, place in zip(index.tolist(), ids.tolist(), places.tolist(), strict=True):
        huge = store.slabs[slab].huge if slab in store.slabs else 0
        chosen[at] = place % BLOCK == 0 and huge >> (place // BLOCK) & 1
    return chosen


async def _ask(
    merger: Merger, client: Client, region: Region, first: int, some: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Have a client make blocks huge; returns which of them are. Raises the errors of
    ``Client.ask``, and ``ProtocolError`` for an answer that does not fit."""
    start = ((some * BLOCK + first) * PAGE_SIZE + region.start).astype(np.uint64)
    slab = np.full(len(some), _core.WIRE_WHOLE, np.uint64)
    rows = wire.runs(start, slab, np.zeros(len(some), np.uint32), np.full(len(some), BLOCK))
    seconds = merger.members.patience.seconds
    body = await client.ask(wire.Kind.MERGE, rows.tobytes(), seconds)
    _, pages = wire.report(body, len(some) * BLOCK)
    done: npt.NDArray[np.bool_] = np.all(pages.reshape(len(some), BLOCK), axis=1)
    return done
