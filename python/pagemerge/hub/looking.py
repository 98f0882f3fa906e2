"""Looks at a client's memory: the hub reads the blocks that are due, and notes what it finds."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagemerge.hub.client import Client
from pagemerge.hub.decide import pace, stability
from pagemerge.hub.model import BLOCK, NO_SLOT, Candidates
from pagemerge.hub.regions import Region
from pagemerge.hub.turns import breathe
from pagemerge.model import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Part:
    """Whole blocks of a region that the hub looks at, or has looked at."""

    region: Region
    first: int
    """Index of the first page in the region."""
    pages: int


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The result of a look at some parts."""

    parts: list[Part]
    digests: npt.NDArray[np.uint64]
    """u64[pages of all parts]: the digests of the parts, one part after the other."""
    merges: int
    """Pages that the client had merged when the look began."""


async def due(client: Client, most: int = pace.MOST_AT_ONCE) -> AsyncIterator[list[Part]]:
    """Yield the parts to look at in this cycle, in lots of at most about ``most`` blocks."""
    lot: list[Part] = []
    pages = 0
    # New regions first, because there is most to find in them.
    for region in sorted(client.regions.values(), key=lambda it: it.looked):
        await breathe()
        if region.closed:
            continue
        region.looked = True
        for first, count in pace.due(region.pages, most):
            if lot and pages + count > most * BLOCK:
                yield lot
                lot, pages = [], 0
            lot.append(Part(region, first, count))
            pages += count
    if lot:
        yield lot


async def recall(client: Client) -> None:
    """Have all empty blocks of a client looked at, if it has filled memory since the last time.

    Memory that is overwritten in place does not count: it waits until its blocks are due.
    """
    attention = client.attention
    attention.note_came(client.came)
    if attention.grown < pace.FEW:
        return
    regions, empty = [it for it in client.regions.values() if not it.closed], 0
    for region in regions:
        await breathe()
        empty += int(np.count_nonzero(region.pages.empty))
    if not attention.begin_recall(empty, client.came):
        return
    for region in regions:
        await breathe()
        pace.recall(region.pages)


async def look(client: Client, parts: list[Part], seed: int) -> Seen:
    """Read and digest the pages of some parts. Raises the errors of ``Client.read``."""
    starts = [part.region.start + part.first * PAGE_SIZE for part in parts]
    pages = np.array([part.pages for part in parts], np.uint64)
    seen = Seen(parts, np.empty(int(pages.sum()), np.uint64), client.merges)
    found = await client.read(
        client.peer.look, np.array(starts, np.uint64), pages, seed, seen.digests
    )
    client.scanned += found[0] // PAGE_SIZE
    return seen


async def note(
    client: Client, seen: Seen, looks: int, clock: int, most_vain: int
) -> tuple[int, int]:
    """Note what a look has found; returns the number of pages that became candidates by it: those
    that were not merged before, and those that were."""
    at = stable = again = 0
    for part in seen.parts:
        await breathe()
        if client.merges != seen.merges:
            break  # pages merged meanwhile, on request, would seem to be written
        digests, pages = seen.digests[at : at + part.pages], part.region.pages
        part.region.stale = True
        observed = stability.observe(pages, part.first, digests, looks, clock, most_vain)
        pace.settle(pages, part.first, observed.awake, observed.empty)
        client.separations += observed.separated
        client.came += observed.came
        part.region.changed += observed.changed
        stable += observed.stable
        again += observed.again
        at += part.pages
    return stable, again


async def candidates(clients: list[Client], looks: int, *, again: bool = True) -> Candidates:
    """Return all pages that are stable and not merged, in order of client and address.

    ``again``: also those that were merged before and written since.
    """
    ready = deque[tuple[int, int, npt.NDArray[np.uint32], npt.NDArray[np.uint64]]]()
    for number, client in enumerate(clients):
        for region in list(client.regions.values()):
            await breathe()
            if region.closed:
                continue
            index = stability.candidates(region.pages, looks, again=again)
            if len(index):
                # Copy the digests now, because they may change while others have their turn.
                digests = region.pages.digest[index]
                ready.append((number, region.start, index.astype(np.uint32), digests))
    total = sum(len(index) for _, _, index, _ in ready)
    found = Candidates(
        np.empty(total, np.uint32), np.empty(total, np.uint64), np.empty(total, np.uint64)
    )
    at = 0
    while ready:  # free each part at once: the hub uses the most memory here
        await breathe()
        number, start, where, digests = ready.popleft()
        part = slice(at, at := at + len(where))
        found.client[part] = number
        found.address[part] = where.astype(np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(start)
        found.digest[part] = digests
    return found


async def check_separated(client: Client) -> None:
    """Find which merged pages a client without a barrier has written, for statistics only."""
    for region in client.regions.values():
        slot = region.pages.slot[:]
        if not np.any(slot != NO_SLOT):
            continue
        end, merges = region.start + len(region) * PAGE_SIZE, client.merges
        found = await client.read(client.peer.present_runs, region.start, end)
        if client.merges != merges:
            return  # pages merged meanwhile would seem to be written
        starts, counts = (np.frombuffer(part, np.uint64) for part in found)
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            first = (start - region.start) // PAGE_SIZE
            written = first + np.flatnonzero(slot[first : first + count] != NO_SLOT)
            client.separations += len(written)
            region.pages.slot[written] = NO_SLOT
