"""Clients leave slabs that are mostly dead."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from pagemerge.hub import tidy
from pagemerge.hub.client import Client
from pagemerge.hub.decide import compact
from pagemerge.hub.domain import Members
from pagemerge.hub.merging import Merger
from pagemerge.hub.model import OWN_SLOT
from pagemerge.hub.origins import Origins
from pagemerge.hub.pages import Pages
from pagemerge.hub.quota import Quota
from pagemerge.hub.regions import Region
from pagemerge.hub.settings import Settings
from pagemerge.linux.domain import Domain

SLAB, PAGES = 7, 8


def written() -> Client:
    """A client of which all pages were merged, and written since: they still stand on a slab."""
    region = Region.of(1 << 30, PAGES)
    region.pages.under[:] = np.arange(PAGES)
    client = SimpleNamespace(
        has_barrier=True,
        is_known=True,
        given={SLAB},
        regions={1: region},
        births={},
        leaving=0,
        skipped=Counter[str](),
        pid=1,
        link=(link := SimpleNamespace(open=True)),
    )
    link.close = lambda _: setattr(link, "open", False)
    return cast(Client, client)


def slabbed(clients: list[Client]) -> tuple[Merger, Origins]:
    """A domain with one slab, on which nothing lives."""
    members = Members(Domain(0), clients=clients)
    domains = {members.domain: members}
    digests, donors = np.arange(100, 100 + PAGES, dtype=np.uint64), np.full(PAGES, 1, np.uint32)
    members.store.add(os.memfd_create("a slab"), SLAB, digests, donors)
    return Merger(members, Quota(domains, Settings()), Settings(), 65530), Origins(domains)


def test_a_new_slab_whose_clients_have_gone_is_dropped_a_cycle_later() -> None:
    merger, origins = slabbed([])
    store = merger.members.store
    merger.members.adopt(SLAB)
    asyncio.run(tidy.tidy(merger, origins))
    assert SLAB in store.slabs
    asyncio.run(tidy.tidy(merger, origins))
    assert not store.slabs


def test_clients_leave_a_slab_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent may rest for a quarter of a second before it answers: the others do not wait."""
    merger, origins = slabbed([written() for _ in range(3)])
    clients, asked = merger.members.clients, list[Client]()

    async def main() -> None:
        all_asked = asyncio.Event()

        async def carry_out(client: Client, _: object, slot: npt.NDArray[np.uint32]) -> int:
            assert (slot == OWN_SLOT).all()
            asked.append(client)
            if len(asked) == len(clients):
                all_asked.set()
            await asyncio.wait_for(all_asked.wait(), 10)
            return len(slot)

        monkeypatch.setattr(merger, "carry_out", carry_out)
        await tidy.tidy(merger, origins)

    asyncio.run(main())
    assert asked == clients
    os.close(merger.members.store.slabs[SLAB].descriptor)


def test_an_error_with_one_client_ends_the_turn_of_that_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merger, origins = slabbed([written() for _ in range(3)])
    first, *others = merger.members.clients
    left = list[Client]()

    def moves(pages: Pages, *rest: Any) -> tuple[Any, Any]:
        if pages is first.regions[1].pages:
            raise MemoryError
        return found(pages, *rest)

    async def carry_out(client: Client, _: object, slot: npt.NDArray[np.uint32]) -> int:
        await asyncio.sleep(0.01)
        left.append(client)
        return len(slot)

    found = compact.moves
    monkeypatch.setattr(compact, "moves", moves)
    monkeypatch.setattr(merger, "carry_out", carry_out)
    asyncio.run(tidy.tidy(merger, origins))
    assert left == others
    assert not first.link.open and all(it.link.open for it in others)
    os.close(merger.members.store.slabs[SLAB].descriptor)
