"""Tidies the slabs of a hub when a cycle is over: drops dead slabs, and empties dying ones."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

import numpy as np

from pagemerge import _core
from pagemerge.errors import PagemergeError
from pagemerge.hub import wire
from pagemerge.hub.boundary import pass_over
from pagemerge.hub.client import Client
from pagemerge.hub.decide import compact
from pagemerge.hub.decide.compact import Extent, Slots
from pagemerge.hub.decide.counters import sharers
from pagemerge.hub.domain import Members
from pagemerge.hub.merging import Merger
from pagemerge.hub.model import NO_SLOT
from pagemerge.hub.origins import Origins
from pagemerge.hub.turns import breathe
from pagemerge.model import PAGE_SIZE

log = logging.getLogger("pagemerge.hub")

ENOUGH = 1024
"""Pages that left slabs which are to be emptied, so that the hub goes on with it at once."""
SOON = 4
"""Cycles until the hub goes on with it if fewer did, because agents asked it to wait."""


async def tidy(merger: Merger, origins: Origins) -> None:
    """Drop slabs that no client maps, and empty those that are mostly dead.

    While a client has a plan and does not answer, the hub does not know what it maps: then all
    slabs that the client was ever given stay, and only those.
    """
    members = merger.members
    if members.fillings:
        return
    before = members.store.bytes
    _drop_unmapped(members, origins)
    await _compact(merger)
    if members.store.bytes < before:
        merger.quota.freed()


def _drop_unmapped(members: Members, origins: Origins) -> None:
    under = (region.pages.under.numbers() for region in members.regions)
    counts = sharers(under, members.store.next_slot)
    unknown = _given_to_silent(members)
    unused = []
    for slab in members.store.slabs.values():
        if members.outgrow(slab.id):
            continue  # the slab is new and gets one more cycle
        if slab.id not in unknown and not counts[slab.base : slab.base + slab.pages].any():
            unused.append(slab.id)
    if not unused:
        return
    members.store.drop(unused)
    origins.forget(members.domain, unused)
    for client in members.clients:
        gone = np.array(sorted(client.given.intersection(unused)), np.uint64)
        client.given.difference_update(unused)
        if len(gone):
            client.link.send(wire.Kind.DROP, body=gone.tobytes())


def _given_to_silent(members: Members) -> set[int]:
    return set().union(*(it.given for it in members.clients if not it.is_known))


async def _compact(merger: Merger) -> None:
    """Copy the live slots of slabs that are mostly dead, and have all clients map the copies.

    Pages can move behind a barrier only, so slabs stay that a client without a barrier maps, or one
    that has taken the memory out of merging.
    """
    members = merger.members
    store, clients = members.store, [it for it in members.clients if it.has_barrier]
    regions = [region for it in clients for region in it.regions.values()]
    fixed = [
        region.pages.under.numbers()
        for it in members.clients
        for region in it.regions.values()
        if region.closed or not it.has_barrier
    ]
    held, unknown = sharers(fixed, store.next_slot), _given_to_silent(members)
    movable = [
        Extent(slab.id, slab.base, slab.pages)
        for slab in store.slabs.values()
        if slab.id not in unknown
        and members.may_empty(slab.id)
        and not held[slab.base : slab.base + slab.pages].any()
    ]
    counts = sharers((region.pages.slot.numbers() for region in regions), store.next_slot)
    dying = compact.worth_emptying(movable, counts, merger.settings.dead_share, _core.SLAB_PAGES)
    for client in clients:
        client.leaving = max(client.leaving - 1, 0)
    if not dying:
        return
    members.try_to_empty(it.slab for it in dying)
    old = compact.live_slots(dying, counts)
    try:
        new = await _copied(members, dying, old) if len(old) else old
    except (PagemergeError, OSError, RuntimeError, MemoryError) as error:
        # No memory, descriptor or thread is left: merged pages stay as they are.
        log.warning("cannot empty %d slabs that are mostly dead: %s", len(dying), error)
        return
    # All at once: an agent rests between forks, and the others need not wait for that.
    parts = await asyncio.gather(*(_leave(merger, it, dying, old, new) for it in clients))
    wanted, moved, later = (sum(it) for it in zip((0, 0, 0), *parts, strict=True))
    if moved + later > wanted / 2:
        # Looking for pinned pages takes a fork, and an agent does not fork all the time.
        members.try_to_empty((it.slab for it in dying), again=1 if moved > ENOUGH else SOON)
    counts = sharers((it.pages.slot.numbers() for it in members.regions), store.next_slot)
    reached = old[counts[new] > 0]
    if len(reached):
        # Meanwhile clients may have handed back a slab, or have merged pages with slots that were
        # dead; others could not leave. What they map stays in the index, or the next one would get
        # a copy of its own.
        unknown = _given_to_silent(members) | members.born
        if any(client.births for client in members.clients):
            unknown |= store.slabs.keys()
        store.retire(compact.dead_slots(dying, counts, unknown))
        store.put_last(reached)
    # A copy that no client maps (it pins memory, for example, or has no mappings left) goes again
    # in a later cycle; the old slots are found as before.
    log.info("%d slabs were mostly dead: %d pages have left them", len(dying), moved)


async def _leave(
    merger: Merger, client: Client, dying: Sequence[Extent], old: Slots, new: Slots
) -> tuple[int, int, int]:
    """Have a client leave slabs; returns the pages that must leave them, those that have left, and
    those that the agent wants to be asked about later. An error ends this client's turn only: the
    others are leaving at the same time."""
    wanted = left = 0
    refused = client.skipped["refused"]
    try:
        for region in list(client.regions.values()):
            await breathe()
            index, slot = compact.moves(region.pages, dying, old, new)
            if len(index):
                wanted += len(index)
                address = (index * PAGE_SIZE + region.start).astype(np.uint64)
                left += await merger.carry_out(client, address, slot)
    except Exception as error:
        pass_over(client, error)
    refused = client.skipped["refused"] - refused
    if refused > left:
        client.leaving = SOON + 1
    return wanted, left, refused


async def _copied(members: Members, dying: Sequence[Extent], old: Slots) -> Slots:
    """Copy the live slots of slabs, and return the slots that pages are to map in place of them."""
    store, loop = members.store, asyncio.get_running_loop()
    descriptor, slab, digests = await loop.run_in_executor(None, store.copy, old)
    try:
        made = store.add(descriptor, slab, digests, store.donors(old))
    except BaseException:
        os.close(descriptor)  # no client knows of it
        raise
    members.adopt(slab)
    new = np.arange(made.base, made.base + len(old), dtype=np.uint32)
    # Another client may have left an old slab before: what it maps since then is used again.
    found = store.find(digests)
    elsewhere = (found != NO_SLOT) & ~compact.are_inside(found, dying)
    new[elsewhere] = found[elsewhere]
    return new
