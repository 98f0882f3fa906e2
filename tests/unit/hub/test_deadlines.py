"""Reads of a client that last for ever: they happen where the hub can go on without them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pagemerge import _core
from pagemerge.errors import HubError
from pagemerge.hub import client as clients
from pagemerge.hub.client import Client
from pagemerge.hub.domain import Members
from pagemerge.hub.filler import Filler
from pagemerge.hub.gentle import Gentle
from pagemerge.hub.patience import Patience
from pagemerge.hub.quota import Quota
from pagemerge.hub.settings import Settings
from pagemerge.linux.domain import Domain
from pagemerge.model import PAGE_SIZE


@pytest.fixture
def forever(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set at the end of the test; until then whoever waits for it is a read that never ends."""
    monkeypatch.setattr(Patience, "LONGEST", 0.2)
    event = threading.Event()
    yield event
    event.set()


def client_of(pid: int) -> Client:
    link: Any = SimpleNamespace(open=True, owes=False)
    return Client(pid, os.geteuid(), "victim", _core.Peer(pid), link, "move")


async def ticking(work: Any) -> int:
    """Await ``work``; how often the loop came round meanwhile."""
    ticks = 0
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0.01)
        ticks += 1
    await task
    return ticks


def test_counting_mappings_may_last_for_ever(
    forever: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "mappings_left", lambda *_: forever.wait())

    async def run() -> None:
        client = client_of(os.getpid())
        with pytest.raises(HubError, match="makes the hub wait"):
            await ticking(client.budget(1, 1000))
        assert not client.is_ready
        forever.set()
        client.close()

    asyncio.run(run())


def test_whoever_waits_alone_does_not_need_the_patience_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Members of its domain that were late do not have an honest one's own request fail."""

    def slow(*_: object) -> int:
        time.sleep(3 * Patience.SHORTEST)
        return 7

    monkeypatch.setattr(clients, "mappings_left", slow)

    async def run() -> None:
        client = client_of(os.getpid())
        client.patience.spent()
        assert await client.budget(1, 1000, awaited=True) == 7
        client.recount = 0.0
        with pytest.raises(HubError, match="makes the hub wait"):
            await client.budget(1, 1000)
        client.close()

    asyncio.run(run())


def test_a_donor_that_makes_the_hub_wait_is_known_by_name(
    forever: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two donors of a slab cannot be read: it alone is left out from then on."""
    other = subprocess.Popen(["sleep", "60"])
    page = np.zeros(2 * PAGE_SIZE, np.uint8)
    address = -(-page.ctypes.data // PAGE_SIZE) * PAGE_SIZE

    def build(*_: object) -> tuple[int, int, None]:
        forever.wait()
        return os.open("/dev/null", os.O_RDONLY), 0, None

    async def run() -> None:
        members = Members(Domain(0))
        filler = Filler(members, Quota({members.domain: members}, Settings()), Gentle(0))
        members.clients = [client_of(os.getpid()), client_of(other.pid)]
        never: Any = SimpleNamespace(digest_stretches=lambda *_: forever.wait(), close=lambda: None)
        members.clients[1].peer = never
        monkeypatch.setattr(type(members.store), "build", build)
        addresses, digests = np.full(2, address, np.uint64), np.array([5, 6], np.uint64)
        whose = np.arange(2, dtype=np.uint64)
        ticks = await ticking(filler.provide(members.clients, whose, addresses, digests))
        assert ticks > 10
        good, bad = members.clients
        assert (good.is_ready, bad.is_ready) == (True, False)
        assert "makes the hub wait" in bad.note
        assert members.pending == 2, "the good one's page is never tried again"
        forever.set()
        for client in members.clients:
            client.close()

    try:
        asyncio.run(run())
    finally:
        other.kill()
        other.wait()


def test_a_request_may_use_what_is_set_aside_and_stages_do_not_count_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plan has all mappings set aside: a program that waits does not lose to it."""
    counted = []

    def count(*_: object) -> int:
        counted.append(1)
        return 1000

    monkeypatch.setattr(clients, "mappings_left", count)

    async def run() -> None:
        client = client_of(os.getpid())
        assert await client.budget(1000, 65530) == 1000
        client.promised = 1000
        assert await client.budget(100, 65530) == 0
        assert await client.budget(100, 65530, awaited=True) == 1000
        client.promised, client.room = 900, 1000
        for _ in range(9):  # stages of a plan: each is released, counted, and told of
            client.promised -= 100
            assert await client.budget(100, 65530) == client.room - client.promised >= 100
        assert len(counted) == 1
        client.close()

    asyncio.run(run())


def test_two_that_have_waited_for_the_same_pages_fill_the_rest_once() -> None:
    """One fills the first page; two others wait for it, and then want the second one, too."""
    raw = np.random.default_rng(1).integers(0, 256, 3 * PAGE_SIZE, np.uint8)
    start = -(-raw.ctypes.data // PAGE_SIZE) * PAGE_SIZE

    async def run() -> None:
        members = Members(Domain(0))
        filler = Filler(members, Quota({members.domain: members}, Settings()), Gentle(0))
        client = client_of(os.getpid())
        members.clients = [client]
        digests = np.empty(2, np.uint64)
        client.peer.digest_stretches(start, members.store.seed, digests)
        addresses = np.array([start, start + PAGE_SIZE], np.uint64)

        async def provide(pages: int) -> list[int]:
            given = addresses[:pages], digests[:pages]
            slots, _ = await filler.provide([client], np.zeros(pages, np.uint64), *given)
            found: list[int] = slots.tolist()
            return found

        first, *others = await asyncio.gather(provide(1), provide(2), provide(2))
        assert others == [[*first, 1]] * 2
        assert members.store.bytes == 2 * PAGE_SIZE, "a page was copied twice"
        filler.close()
        members.store.drop(list(members.store.slabs))
        client.close()

    asyncio.run(run())
