"""What a hub does with its slabs when a cycle is over: drop the dead, empty the dying."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import numpy as np

from pagemerge import _core
from pagemerge.errors import PagemergeError
from pagemerge.hub import wire
from pagemerge.hub.decide import compact
from pagemerge.hub.decide.counters import sharers
from pagemerge.hub.turns import breathe
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from pagemerge.hub.domain import Members
    from pagemerge.hub.hub import Hub

AGAIN = 64
"""Cycles until slabs that somebody did not leave are tried again."""

log = logging.getLogger("pagemerge.hub")


async def tidy(hub: Hub, members: Members) -> None:
    """Drop slabs that nobody maps, and empty those that are mostly dead.

    What a client maps is not known while it has a plan and does not answer: then all slabs that it
    was ever given stay, and only those.
    """
    if members.filler.under_way:
        return
    before = members.store.bytes
    _drop_unmapped(hub, members)
    await _compact(hub, members)
    if members.store.bytes < before:
        hub.quota.freed()


def _drop_unmapped(hub: Hub, members: Members) -> None:
    under = [region.pages.under for it in members.clients for region in it.regions.values()]
    counts = sharers(under, members.store.next_slot)
    unknown = _given_to_silent(members)
    unused = []
    for slab in members.store.slabs.values():
        if slab.id in members.born:
            members.born.discard(slab.id)  # it gets one more cycle
        elif slab.id not in unknown and not counts[slab.base : slab.base + slab.pages].any():
            unused.append(slab.id)
    if not unused:
        return
    members.store.drop(unused)
    hub.forget(members.domain, unused)
    for client in members.clients:
        gone = np.array(sorted(client.given.intersection(unused)), np.uint64)
        client.given.difference_update(unused)
        if len(gone):
            client.link.send(wire.Kind.DROP, body=gone.tobytes())


def _given_to_silent(members: Members) -> set[int]:
    return set().union(*(it.given for it in members.clients if not it.is_known))


async def _compact(hub: Hub, members: Members) -> None:
    """Copy what lives in slabs that are mostly dead, and have everybody move there.

    Pages can move behind a barrier only, so slabs that a client without one maps stay.
    """
    store, clients = members.store, [it for it in members.clients if it.has_barrier]
    regions = [region for it in clients for region in it.regions.values()]
    fixed = [
        region.pages.under
        for it in members.clients
        if not it.has_barrier
        for region in it.regions.values()
    ]
    held, unknown = sharers(fixed, store.next_slot), _given_to_silent(members)
    movable = [
        compact.Extent(slab.id, slab.base, slab.pages)
        for slab in store.slabs.values()
        if slab.id not in members.born | unknown
        and members.stubborn.get(slab.id, 0) <= members.cycles
        and not held[slab.base : slab.base + slab.pages].any()
    ]
    counts = sharers((region.pages.slot for region in regions), store.next_slot)
    dying = compact.worth_emptying(movable, counts, hub.settings.dead_share, _core.SLAB_PAGES)
    if not dying:
        return
    members.stubborn = {it: when for it, when in members.stubborn.items() if it in store.slabs}
    members.stubborn.update((it.slab, members.cycles + AGAIN) for it in dying)
    old = compact.live_slots(dying, counts)
    made = None
    if len(old):
        loop = asyncio.get_running_loop()
        try:
            descriptor, slab, digests = await loop.run_in_executor(None, store.copy, old)
        except (PagemergeError, OSError, RuntimeError, MemoryError) as error:
            # No memory, descriptor or thread is left: what is merged stays as it is.
            log.warning("cannot empty %d slabs that are mostly dead: %s", len(dying), error)
            return
        made = store.add(descriptor, slab, digests, store.donors(old), findable=False)
        members.born.add(slab)
    moved = 0
    for client in clients:
        for region in list(client.regions.values()):
            await breathe()
            index, slot = compact.moves(region.pages, dying, old, made.base if made else 0)
            if len(index):
                address = (index * PAGE_SIZE + region.start).astype(np.uint64)
                moved += await hub.carry_out(members, client, address, slot)
    if moved and made:
        store.retire(it.slab for it in dying)
        store.publish(made, digests)
    # Otherwise nobody could move (a process that pins memory, say): all is as it was, and the
    # copy, which nobody knows, is dropped with the next cycle.
    log.info("%d slabs were mostly dead: %d pages have left them", len(dying), moved)
