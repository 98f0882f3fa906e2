"""What the hub sees of a client's memory: it reads what is due, and notes what that says."""

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

MOST_AT_ONCE = pace.MOST_AT_ONCE * BLOCK
"""Pages of the parts that are read at once. Where there are many small ones, asking whether the
process is still what it was, and handing the work to a thread, would take longer than to read."""


@dataclass(frozen=True, slots=True)
class Part:
    """Whole blocks of a region that are to be looked at, or were."""

    region: Region
    first: int
    """Page of the region."""
    pages: int


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a look at some parts found."""

    parts: list[Part]
    digests: npt.NDArray[np.uint64]
    """u64[pages of all parts]: of one after the other."""
    merges: int
    """Pages that the client had merged when the look began."""


async def due(client: Client) -> AsyncIterator[list[Part]]:
    """What is to be looked at in this cycle, in lots of about ``MOST_AT_ONCE`` pages."""
    lot: list[Part] = []
    pages = 0
    # New regions first: there is most to find.
    for region in sorted(client.regions.values(), key=lambda it: it.looked):
        await breathe()
        region.looked = True
        for first, count in pace.due(region.pages):
            if lot and pages + count > MOST_AT_ONCE:
                yield lot
                lot, pages = [], 0
            lot.append(Part(region, first, count))
            pages += count
    if lot:
        yield lot


async def look(client: Client, parts: list[Part], seed: int) -> Seen:
    """Read and digest what is there. Raises as ``Client.read``."""
    starts = [part.region.start + part.first * PAGE_SIZE for part in parts]
    pages = np.array([part.pages for part in parts], np.uint64)
    seen = Seen(parts, np.empty(int(pages.sum()), np.uint64), client.merges)
    await client.read(client.peer.look, np.array(starts, np.uint64), pages, seed, seen.digests)
    return seen


async def note(client: Client, seen: Seen, looks: int, clock: int, most_vain: int) -> int:
    """Take in what a look has found; returns how many pages have become candidates by it."""
    at = stable = 0
    for part in seen.parts:
        await breathe()
        if client.merges != seen.merges:
            break  # pages merged meanwhile, on demand, would seem to be written
        digests, pages = seen.digests[at : at + part.pages], part.region.pages
        observed = stability.observe(pages, part.first, digests, looks, clock, most_vain)
        pace.settle(pages, part.first, observed.awake, observed.empty)
        client.separations += observed.separated
        stable += observed.stable
        at += part.pages
    return stable


async def candidates(clients: list[Client], looks: int) -> Candidates:
    """All pages that are stable and not merged, in order of client and address."""
    ready = deque[tuple[int, int, npt.NDArray[np.uint32], npt.NDArray[np.uint64]]]()
    for number, client in enumerate(clients):
        for region in list(client.regions.values()):
            await breathe()
            index = stability.candidates(region.pages, looks)
            if len(index):
                # The digests at once, because they may change before the next breath is over.
                digests = region.pages.digest[index]
                ready.append((number, region.start, index.astype(np.uint32), digests))
    total = sum(len(index) for _, _, index, _ in ready)
    found = Candidates(
        np.empty(total, np.uint32), np.empty(total, np.uint64), np.empty(total, np.uint64)
    )
    at = 0
    while ready:  # each part is let go of at once: this is the hub's largest moment
        await breathe()
        number, start, where, digests = ready.popleft()
        part = slice(at, at := at + len(where))
        found.client[part] = number
        found.address[part] = where.astype(np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(start)
        found.digest[part] = digests
    return found


async def check_separated(client: Client) -> None:
    """A client without a barrier is looked at for statistics only: which pages it wrote."""
    for region in client.regions.values():
        slot = region.pages.slot
        if not np.any(slot != NO_SLOT):
            continue
        end, merges = region.start + len(region) * PAGE_SIZE, client.merges
        found = await client.read(client.peer.present_runs, region.start, end)
        if client.merges != merges:
            return  # pages merged meanwhile would seem to be written
        starts, counts = (np.frombuffer(part, np.uint64) for part in found)
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            first = (start - region.start) // PAGE_SIZE
            part = slot[first : first + count]
            client.separations += int(np.count_nonzero(part != NO_SLOT))
            part[:] = NO_SLOT
