"""What the hub itself runs out of ends no more than the piece of work that needed it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from pagemerge import _core
from pagemerge.errors import HubError, PagemergeError
from pagemerge.hub import tidy
from pagemerge.hub.client import Client
from pagemerge.hub.domain import Members
from pagemerge.hub.link import Link
from pagemerge.hub.merging import Merger
from pagemerge.hub.origins import Origins
from pagemerge.hub.quota import Quota
from pagemerge.hub.regions import Region
from pagemerge.hub.settings import Settings
from pagemerge.linux.domain import Domain


def test_what_we_lack_widens_no_domain() -> None:
    """Without a descriptor for the label of a process there is no client, not one without label."""
    code = """
import os, resource
from pagemerge import _core
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
for left in range(1, 6):
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for file in held[:left]:
            os.close(file)
    try:
        _core.Peer(os.getpid())
        print(left, "is enough")
    except Exception as error:
        print(left, type(error).__name__, "Too many open files" in str(error))
    for file in held[left:]:
        os.close(file)
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert said[:3] == [f"{left} PagemergeError True" for left in (1, 2, 3)]
    assert said[-1] == "5 is enough"


def test_no_thread_for_a_reader_is_no_end_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_NPROC, pids.max: the client is passed over, and tried again."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            link = Link(ours, lambda *_: None, lambda _: None)
            client = Client(os.getpid(), os.getuid(), "x", _core.Peer(os.getpid()), link)

            def submit(*_: object) -> None:
                raise RuntimeError("can't start new thread")

            monkeypatch.setattr(client.reader, "submit", submit)
            with pytest.raises(HubError, match="no reader: can't start new thread"):
                await client.read(os.getpid)
            link.close("the test is over")
            client.close()

    asyncio.run(main())


def test_a_store_that_cannot_be_tidied_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor, memory or thread for the copy of what lives in a dying slab."""
    members = Members(Domain(0))
    domains = {members.domain: members}
    merger = Merger(members, Quota(domains, Settings()), Settings(), 65530)
    store, dying = members.store, os.memfd_create("a slab")
    store.add(dying, 7, np.arange(100, 108, dtype=np.uint64), np.full(8, 1, np.uint32))
    region = Region.of(1 << 30, 8)
    region.pages.slot[0], region.pages.under[:] = 3, np.arange(8)
    client = SimpleNamespace(
        has_barrier=True, is_known=True, given={7}, regions={1: region}, births={}, leaving=0
    )
    members.clients.append(cast(Client, client))
    for error in (PagemergeError("memfd_create"), OSError(24, "memfd_create"), RuntimeError("no")):

        def copy(slots: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(store, "copy", copy)
        members.stubborn.clear()
        asyncio.run(tidy.tidy(merger, Origins(domains)))
        assert members.stubborn, "it was not even tried"
        assert list(store.slabs) == [7]
        assert store.find(np.array([103], np.uint64)).tolist() == [3]
    os.close(dying)
