"""Counts what a hub tells viewers: the counters of the domains that they may see."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping

import numpy as np

from pagemerge._core import count
from pagemerge.hub.client import Client
from pagemerge.hub.decide import counters
from pagemerge.hub.decide.stability import before_merge
from pagemerge.hub.domain import Members
from pagemerge.hub.model import BLOCK_BYTES, ClientStatus, Status
from pagemerge.linux.domain import Domain
from pagemerge.model import PAGE_SIZE

Steps = Generator[None, None, None]
"""Work in steps of about a millisecond: clients may have any number of regions, and the hub serves
other clients in between. The counted pages may change meanwhile, page by page."""


def status(
    domains: Mapping[Domain, Members], uid: int, looks: int, full_scans: int, started: float
) -> Generator[None, None, Status]:
    """Work out, in steps, the counters that a viewer of ``uid`` may see: its own domains; for root,
    all domains.

    ``looks``: the setting; ``started``: when the hub started, on the monotonic clock.
    """
    clients: list[ClientStatus] = []
    total = counters.Counts()
    shared = store = metadata = 0
    for domain, members in list(domains.items()):
        if uid not in (0, domain.uid):
            continue
        found = Count(domain, members, before_merge(looks))
        yield from found.steps()
        clients += found.rows
        total += found.total
        shared += int(np.count_nonzero(found.sharers))
        store += members.store.bytes
        metadata += members.store.metadata_bytes + found.metadata
    sharing = total.merged - shared
    saved = (sharing + total.zero) * PAGE_SIZE
    idle_slots = store - shared * PAGE_SIZE
    return Status(
        engine="user",
        hub_pid=os.getpid(),
        pages_shared=shared,
        pages_sharing=sharing,
        zero_pages=total.zero,
        pages_unshared=total.unshared,
        pages_volatile=total.volatile,
        full_scans=full_scans,
        store_bytes=store,
        metadata_bytes=metadata,
        general_profit_bytes=saved - idle_slots - metadata - total.runs * counters.VMA_BYTES,
        cpu_seconds=time.process_time(),
        seconds=time.monotonic() - started,
        clients=tuple(clients),
    )


class Count:
    """The counts of one domain."""

    def __init__(self, domain: Domain, members: Members, looks: int) -> None:
        self._domain, self._clients, self._looks = domain, list(members.clients), looks
        self.rows: list[ClientStatus] = []
        self.total = counters.Counts()
        self.metadata = 0
        """Bytes that the hub's records of the pages take."""
        self.sharers = np.zeros(members.store.next_slot, np.uint32)
        """u32[slots]: pages that map each slot."""

    def steps(self) -> Steps:
        """Count all clients."""
        for client in self._clients:
            yield from self._client(client)

    def _client(self, client: Client) -> Steps:
        records = sum(region.bytes for region in client.regions.values())
        regions = [region.pages for region in client.regions.values()]
        tally = counters.Counts()
        for lot in counters.lots(regions):
            tally += counters.tally(lot, self._looks)
            count(lot.slot, self.sharers)
            yield
        self.total += tally
        blocks = sum(len(pages.quiet) for pages in regions)
        self.metadata += records + blocks * BLOCK_BYTES
        self.rows.append(_row(client, self._domain, len(regions), tally))
        yield


def _row(client: Client, domain: Domain, regions: int, tally: counters.Counts) -> ClientStatus:
    return ClientStatus(
        pid=client.pid,
        name=client.name,
        uid=client.uid,
        domain=str(domain),
        barrier=client.barrier,
        regions=regions,
        bytes=tally.pages * PAGE_SIZE,
        merged_pages=tally.merged,
        zero_pages=tally.zero,
        mappings=tally.runs,
        skipped={reason: count for reason, count in client.skipped.items() if count},
        note=client.note,
        merges=client.merges,
        separations=client.separations,
        volatile_pages=tally.volatile,
        pages_scanned=client.scanned,
    )
