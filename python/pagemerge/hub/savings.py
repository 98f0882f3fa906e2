"""Tells the clients of a domain what merging saves them.

Their agents keep the figures for the line that ``pagemerge run`` prints when a program ends.
"""

from __future__ import annotations

import time
from math import inf

import numpy as np

from pagemerge.hub import wire
from pagemerge.hub.client import Client
from pagemerge.hub.decide import counters
from pagemerge.hub.domain import Members
from pagemerge.hub.model import OWN_SLOT, ZERO_SLOT
from pagemerge.hub.turns import breathe
from pagemerge.model import PAGE_SIZE

EVERY = 5.0
"""Seconds between two counts: a count goes over all pages of the domain."""


class Savings:
    """What the clients of one domain were told."""

    def __init__(self) -> None:
        self._last = -inf
        self._due = False

    async def tell(self, members: Members, merged: int) -> None:
        """Count and tell, if pages were ``merged`` since the last time, and that was long ago."""
        self._due |= merged > 0
        if not self._due or time.monotonic() - self._last < EVERY:
            return
        self._due, self._last = False, time.monotonic()
        await breathe()
        numbers = (region.pages.slot.numbers() for region in members.regions)
        sharers = counters.sharers(numbers, members.store.next_slot)
        kept = np.zeros(len(sharers), np.float32)
        np.divide(1.0, sharers, out=kept, where=sharers > 0)
        for client in list(members.clients):
            merged_bytes, saved = await _count(client, kept)
            if merged_bytes:
                client.link.send(wire.Kind.SAVED, body=wire.SAVED.pack(merged_bytes, saved))


async def _count(client: Client, kept: np.typing.NDArray[np.float32]) -> tuple[int, int]:
    """Count the bytes of a client that are merged, and those that this saves: of a slot that ``n``
    pages map, each page keeps one ``n``th (f32[slots])."""
    merged, saved = 0, 0.0
    for lot in counters.lots([region.pages for region in client.regions.values()]):
        await breathe()
        mapped = lot.slot[lot.slot < OWN_SLOT]
        mapped = mapped[mapped < len(kept)]  # slots that are newer than the count
        zero = int(np.count_nonzero(lot.slot == ZERO_SLOT))
        merged += len(mapped) + zero
        saved += zero + len(mapped) - float(kept[mapped].sum())
    return merged * PAGE_SIZE, int(saved * PAGE_SIZE)
