"""Merges at birth: what the hub does meanwhile."""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
from typing import Any

import numpy as np
import pytest

from pagemerge import _core
from pagemerge.hub import birth, tidy, wire
from pagemerge.hub import client as clients
from pagemerge.hub.client import Client
from pagemerge.hub.domain import Members
from pagemerge.hub.merging import Merger
from pagemerge.hub.origins import Origins
from pagemerge.hub.quota import Quota
from pagemerge.hub.readers import Readers
from pagemerge.hub.regions import Region
from pagemerge.hub.settings import Settings
from pagemerge.linux.domain import Domain
from pagemerge.model import PAGE_SIZE

PAGES = 8


class Recorder:
    """A link that records the frames that the hub sends."""

    open, owes = True, False

    def __init__(self) -> None:
        self.sent = list[tuple[wire.Kind, bytes]]()

    def send(self, kind: wire.Kind, _: int = 0, body: bytes = b"", **__: object) -> None:
        self.sent.append((kind, body))


def test_tidying_keeps_new_slabs_while_a_request_is_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new slab is kept for one cycle, and counting the client's mappings may take longer."""
    counting, go_on = threading.Event(), threading.Event()

    def count_slowly(*_: object) -> int:
        counting.set()
        assert go_on.wait(10)
        return 1000

    monkeypatch.setattr(clients, "mappings_left", count_slowly)
    memory = np.frombuffer(mmap.mmap(-1, PAGES * PAGE_SIZE), np.uint8)
    memory[:] = np.repeat(np.arange(1, 1 + PAGES), PAGE_SIZE)
    start, pid, link = memory.ctypes.data, os.getpid(), Recorder()
    as_link: Any = link
    client = Client(pid, os.geteuid(), "itself", _core.Peer(pid), as_link, "move")
    client.regions = {1: Region.of(start, PAGES)}
    members = Members(Domain(os.geteuid()), clients=[client])
    domains = {members.domain: members}
    merger = Merger(members, Quota(domains, Settings()), Settings(), 65530)

    async def main() -> None:
        client.begin_birth(1)
        asked = birth.merge(merger, Readers(), client, 1, (start, start, PAGES, 1))
        request = asyncio.ensure_future(asked)
        await asyncio.to_thread(counting.wait, 10)
        for _ in range(3):
            await tidy.tidy(merger, Origins(domains))
        go_on.set()
        await request

    asyncio.run(main())
    kinds = [kind for kind, _ in link.sent]
    assert kinds == [wire.Kind.SLAB, wire.Kind.MERGE]
    run = np.frombuffer(link.sent[-1][1], wire.RUN)
    assert run["pages"].sum() == PAGES
    for slab in members.store.slabs.values():
        os.close(slab.descriptor)
