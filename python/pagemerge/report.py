"""What a hub tells viewers: the counters of the domains that they may see."""

from __future__ import annotations

import os
import time
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from pagemerge.decide.stability import before_merge
from pagemerge.decide.trust import Domain
from pagemerge.merge.user import Client
from pagemerge.model import PAGE_SIZE, ClientStatus, Pages, Status
from pagemerge.watch import counters

if TYPE_CHECKING:
    from pagemerge.hub import Hub


def status(hub: Hub, uid: int) -> Status:
    """The counters that a viewer of ``uid`` may see: its own domains; root sees all."""
    settings = hub.settings
    clients: list[ClientStatus] = []
    total = dict.fromkeys(("shared", "sharing", "unshared", "volatile", "zero", "runs"), 0)
    store = metadata = 0
    for domain, members in hub.domains.items():
        if uid not in (0, domain.uid):
            continue
        maps = [region.pages.slot for it in members.clients for region in it.regions.values()]
        mapped = counters.sharers(maps, members.store.next_slot)
        total["shared"] += int(np.count_nonzero(mapped))
        total["sharing"] += int(mapped.sum()) - int(np.count_nonzero(mapped))
        store += members.store.bytes
        metadata += members.store.metadata_bytes
        for client in members.clients:
            row, tally = _row(client, domain, before_merge(settings.looks))
            clients.append(row)
            for key in ("unshared", "volatile", "zero", "runs"):
                total[key] += getattr(tally, key)
            metadata += sum(_bytes(region.pages) for region in client.regions.values())
    idle_slots = store - total["shared"] * PAGE_SIZE
    saved = (total["sharing"] + total["zero"]) * PAGE_SIZE
    return Status(
        engine="user",
        hub_pid=os.getpid(),
        pages_shared=total["shared"],
        pages_sharing=total["sharing"],
        zero_pages=total["zero"],
        pages_unshared=total["unshared"],
        pages_volatile=total["volatile"],
        full_scans=hub.full_scans,
        store_bytes=store,
        metadata_bytes=metadata,
        general_profit_bytes=saved - idle_slots - metadata - total["runs"] * counters.VMA_BYTES,
        cpu_seconds=time.process_time(),
        seconds=time.monotonic() - hub.started,
        clients=tuple(clients),
    )


def _bytes(pages: Pages) -> int:
    return sum(getattr(pages, field.name).nbytes for field in fields(pages))


def _row(client: Client, domain: Domain, looks: int) -> tuple[ClientStatus, counters.Tally]:
    tally = counters.tally([region.pages for region in client.regions.values()], looks)
    row = ClientStatus(
        pid=client.pid,
        name=client.name,
        uid=client.uid,
        domain=str(domain),
        barrier=client.barrier,
        regions=len(client.regions),
        bytes=sum(map(len, client.regions.values())) * PAGE_SIZE,
        merged_pages=tally.merged,
        zero_pages=tally.zero,
        mappings=tally.runs,
        skipped={reason: count for reason, count in client.skipped.items() if count},
        note=client.note,
        merges=client.merges,
        separations=client.separations,
    )
    return row, tally
