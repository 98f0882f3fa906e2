"""Merges at birth: what the hub does meanwhile."""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pagemerge import _core
from pagemerge.hub import birth, tidy, wire
from pagemerge.hub import client as clients
from pagemerge.hub.client import Client
from pagemerge.hub.domain import Members
from pagemerge.hub.merging import Merger
from pagemerge.hub.origins import Origins
from pagemerge.hub.patience import Patience
from pagemerge.hub.quota import Quota
from pagemerge.hub.readers import Readers
from pagemerge.hub.regions import Region
from pagemerge.hub.settings import Settings
from pagemerge.linux.domain import Domain
from pagemerge.model import ABSENT, PAGE_SIZE

U64 = npt.NDArray[np.uint64]
PAGES = 8


class Recorder:
    """A link that records the frames that the hub sends."""

    open, owes = True, False

    def __init__(self) -> None:
        self.sent = list[tuple[wire.Kind, bytes]]()

    def send(self, kind: wire.Kind, _: int = 0, body: bytes = b"", **__: object) -> None:
        self.sent.append((kind, body))


class Asking:
    """A client, this process itself, that asks to merge pages which are all different."""

    def __init__(self) -> None:
        self.file = os.memfd_create("memory")
        os.ftruncate(self.file, PAGES * PAGE_SIZE)
        self.memory = np.frombuffer(mmap.mmap(self.file, PAGES * PAGE_SIZE), np.uint8)
        self.memory[:] = np.repeat(np.arange(1, 1 + PAGES), PAGE_SIZE)
        self.start, pid, self.link = self.memory.ctypes.data, os.getpid(), Recorder()
        link: Any = self.link
        self.client = Client(pid, os.geteuid(), "itself", _core.Peer(pid), link, "move")
        self.client.regions = {1: Region.of(self.start, PAGES)}
        self.members = Members(Domain(os.geteuid()), clients=[self.client])
        self.domains = {self.members.domain: self.members}
        quota = Quota(self.domains, Settings())
        self.merger = Merger(self.members, quota, Settings(), 65530)

    async def ask(self) -> None:
        """Have the hub prepare a merge of all pages."""
        self.client.begin_birth(1)
        asked = self.start, self.start, PAGES, 1
        await birth.merge(self.merger, Readers(), self.client, 1, asked)

    def planned(self) -> int:
        """How many pages the hub has told the client to merge, which it has given the slabs for."""
        assert {kind for kind, _ in self.link.sent[:-1]} == {wire.Kind.SLAB}
        kind, body = self.link.sent[-1]
        assert kind == wire.Kind.MERGE
        return int(np.frombuffer(body, wire.RUN)["pages"].sum())


@pytest.fixture
def asking() -> Iterator[Asking]:
    made = Asking()
    yield made
    os.close(made.file)
    for slab in made.members.store.slabs.values():
        os.close(slab.descriptor)


def test_tidying_keeps_new_slabs_while_a_request_is_prepared(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new slab is kept for one cycle, and counting the client's mappings may take longer."""
    counting, go_on = threading.Event(), threading.Event()

    def count_slowly(*_: object) -> int:
        counting.set()
        assert go_on.wait(10)
        return 1000

    monkeypatch.setattr(clients, "mappings_left", count_slowly)

    async def main() -> None:
        request = asyncio.ensure_future(asking.ask())
        await asyncio.to_thread(counting.wait, 10)
        for _ in range(3):
            await tidy.tidy(asking.merger, Origins(asking.domains))
        go_on.set()
        await request

    asyncio.run(main())
    assert asking.planned() == PAGES


@pytest.mark.parametrize("when", ["when it is read", "when it is copied"])
def test_a_page_that_is_not_there_for_a_moment_is_merged(
    when: str, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel moves pages to other places whenever it likes."""
    looks, read = list[U64](), Client.read

    async def first_in_vain(client: Client, look: Any, *arguments: Any) -> Any:
        found = await read(client, look, *arguments)
        if look.__name__ == "digest_stretches":
            looks.append(seen := arguments[-1])
            if len(looks) == 1:
                seen[3] = ABSENT if when == "when it is read" else seen[3] ^ np.uint64(2)
        return found

    monkeypatch.setattr(Client, "read", first_in_vain)
    asyncio.run(asking.ask())
    assert (asking.planned(), len(looks)) == (PAGES, 2)


def test_pages_that_stay_away_do_not_keep_the_others_from_being_merged(asking: Asking) -> None:
    os.ftruncate(asking.file, (PAGES - 1) * PAGE_SIZE)
    asyncio.run(asking.ask())
    assert asking.planned() == PAGES - 1


def test_pages_that_are_not_copied_in_time_are_copied_again(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that a busy host does not let run copies no slab in time, and no client is at fault."""
    store, builds = type(asking.members.store), list[float]()
    build = store.build

    def slow_at_first(*arguments: Any) -> Any:
        builds.append(time.monotonic())
        if len(builds) == 1:
            time.sleep(Patience.LONGEST + 0.2)
        return build(*arguments)

    monkeypatch.setattr(store, "build", slow_at_first)
    asyncio.run(asking.ask())
    assert (asking.planned(), len(builds)) == (PAGES, 2)
