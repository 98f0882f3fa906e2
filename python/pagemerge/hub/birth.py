"""Merges at birth: a client asks the hub to merge pages at once, while no thread writes them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pagemerge.errors import PagemergeError, ProtocolError
from pagemerge.hub import wire
from pagemerge.hub.boundary import pass_over
from pagemerge.hub.client import Client
from pagemerge.hub.merging import Merger
from pagemerge.hub.model import NO_SLOT, ZERO_SLOT
from pagemerge.hub.readers import Readers
from pagemerge.linux.text import plain
from pagemerge.model import ABSENT, PAGE_SIZE, ZERO

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

MOST_PAGES = 4096
"""Pages that one request may ask for (16 MiB); agents ask for no more."""

SMALL = 512
"""The most pages of a request (2 MiB) that does not wait for larger ones of the same user."""

ATTEMPTS = 3
"""Times that the hub reads pages that are not there, or not the same when they are copied, or not
copied in time. Nobody writes them, but a page is not there for a moment while the kernel moves it
(memory compaction), and a busy host may not let the hub run for a second."""


async def merge(
    merger: Merger, readers: Readers, client: Client, sequence: int, asked: tuple[int, ...]
) -> None:
    """Answer a request: plan its pages, fill the slots that the store lacks from them."""
    source, target, pages, region = asked
    members = merger.members
    if not 0 < pages <= MOST_PAGES or target % PAGE_SIZE:
        raise ProtocolError("a request to merge with an invalid number of pages or target address")
    try:
        if region not in client.regions:
            await client.refresh(awaited=True)
        seen = await _provide(merger, readers, client, source, pages)
        slot = np.where(seen == ZERO, np.uint32(ZERO_SLOT), members.store.find(seen))
        mine = np.flatnonzero(slot != NO_SLOT)
        address = mine.astype(np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(target)
        # Given before its mappings are counted, which may take longer than a new slab is kept that
        # no client maps: tidying keeps what this client was given while it waits.
        merger.give(client, np.unique(members.store.locate(slot[mine])[0]))
        address, slot, runs = await merger.prepare(
            client, address, slot[mine], least=1, awaited=True
        )
        client.plan_birth(sequence, address, slot)
        client.link.send(wire.Kind.MERGE, sequence, runs.tobytes())
    except ProtocolError:
        raise
    except Exception as error:
        refuse(client, sequence, str(error))
        if not isinstance(error, (PagemergeError, OSError)):
            pass_over(client, error)


async def _provide(
    merger: Merger, readers: Readers, client: Client, source: int, pages: int
) -> U64:
    """Read pages, and fill the slots that the store lacks; returns their digests: u64[pages]."""
    members, seen = merger.members, np.empty(pages, np.uint64)
    for _ in range(ATTEMPTS):
        # The hub reads for one request of a client at a time; large ones of one user take turns.
        async with client.asking, readers.of(members.domain.uid, pages > SMALL):
            await client.read(client.peer.digest_stretches, source, members.store.seed, seen)
        wanted, donors = np.unique(seen, return_index=True)
        donors = np.sort(donors[wanted > ZERO])
        there = members.store.next_slot
        merger.quota.forget(client)
        _, changed = await merger.filler.provide(
            [client],
            np.zeros(len(donors), np.uint64),
            donors.astype(np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(source),
            seen[donors],
            awaited=True,
        )
        members.grow(max(members.store.next_slot - there, 0))
        if not changed.any() and not (seen == ABSENT).any():
            break
    return seen


def refuse(client: Client, sequence: int, why: str) -> None:
    """Tell a client why the hub refuses its request."""
    client.refuse_birth(sequence)
    client.link.send(wire.Kind.REFUSED, sequence, plain(why, 1000).encode())


def note(merger: Merger, client: Client, planned: tuple[U64, U32], body: bytes) -> None:
    """Note the client's report of the merge that it asked for."""
    merger.note(client, body, *planned)
    merger.members.share_grown()
