"""Keeps memory available for the day on which merged pages are written (``reserve_bytes``)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from pagemerge.hub.client import Client
from pagemerge.hub.decide.counters import lots
from pagemerge.hub.domain import Members
from pagemerge.hub.model import OWN_SLOT, ZERO_SLOT, Candidates
from pagemerge.hub.turns import breathe
from pagemerge.linux.accounts import available_bytes
from pagemerge.model import PAGE_SIZE

log = logging.getLogger("pagemerge.hub")

REASON = "reserve"
"""The name that ``status`` uses for pages that are left alone because of the reserve."""


class Reserve:
    """Says whether merging more would endanger the reserve; logs when that changes."""

    def __init__(self) -> None:
        self._lacked = False

    async def lacks(self, domains: Iterable[Members], reserve_bytes: int) -> int:
        """Return the bytes that would be missing if every merged page were written at once, so that
        each process had its own again; 0 without a reserve, or if enough is available.

        Slots are memory already, so the first page that maps one takes no more than it has.
        """
        lacking = await _lacking(domains, reserve_bytes) if reserve_bytes else 0
        if bool(lacking) != self._lacked:
            self._lacked = bool(lacking)
            if lacking:
                log.warning(
                    "the reserve would lack %.0f MB if all merged pages were written: no more is "
                    "merged",
                    lacking / 1e6,
                )
            else:
                log.warning("merging goes on: the reserve is safe")
        return lacking


async def _lacking(domains: Iterable[Members], reserve_bytes: int) -> int:
    available = available_bytes()
    if available is None:
        return 0
    pages = 0
    for members in domains:
        for client in list(members.clients):
            for lot in lots([it.pages for it in client.regions.values()]):
                pages += int(np.count_nonzero((lot.slot < OWN_SLOT) | (lot.slot == ZERO_SLOT)))
                await breathe()
    return max(reserve_bytes + pages * PAGE_SIZE - available, 0)


def leave_alone(clients: Sequence[Client], found: Candidates) -> None:
    """Count the candidates of each client as left alone. ``found`` numbers ``clients``."""
    counts = np.bincount(found.client, minlength=len(clients))
    for client, pages in zip(clients, counts.tolist(), strict=True):
        client.forget(REASON)
        client.leave_alone(REASON, pages)
