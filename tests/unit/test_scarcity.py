"""What the hub itself runs out of ends no more than the piece of work that needed it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from pagemerge import service, tidy
from pagemerge.config import Settings
from pagemerge.decide.trust import Domain
from pagemerge.errors import HubError, PagemergeError
from pagemerge.hub import Hub, Members
from pagemerge.merge.link import Link
from pagemerge.merge.user import Client, Region


def test_a_label_that_cannot_be_read_for_now_widens_no_domain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For want of a descriptor; where there is no label, that is all there is to it."""

    def failing(number: int) -> None:
        def read_text(path: Path) -> str:
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(Path, "read_text", read_text)

    for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        failing(number)
        with pytest.raises(OSError):
            service._domain(os.getpid(), 1, b"")
    for number in (errno.ENOENT, errno.EINVAL, errno.EACCES):
        failing(number)
        assert service._domain(os.getpid(), 1, b"").label == ""


def test_no_thread_for_a_reader_is_no_end_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_NPROC, pids.max: the client is passed over, and tried again."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            link = Link(ours, lambda *_: None, lambda _: None)
            handle = os.pidfd_open(os.getpid())
            client = Client(os.getpid(), os.getuid(), "x", handle, link)

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
    hub, members = Hub(Settings()), Members(Domain(0))
    store, dying = members.store, os.memfd_create("a slab")
    store.add(dying, 7, np.arange(100, 108, dtype=np.uint64), np.full(8, 1, np.uint32))
    region = Region.of(1 << 30, 8)
    region.pages.slot[0], region.pages.under[:] = 3, np.arange(8)
    client = SimpleNamespace(
        has_barrier=True, is_known=True, given={7}, regions={1: region}, births={}
    )
    members.clients.append(cast(Client, client))
    for error in (PagemergeError("memfd_create"), OSError(24, "memfd_create"), RuntimeError("no")):

        def copy(slots: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(store, "copy", copy)
        members.stubborn.clear()
        asyncio.run(tidy.tidy(hub, members))
        assert members.stubborn, "it was not even tried"
        assert list(store.slabs) == [7]
        assert store.find(np.array([103], np.uint64)).tolist() == [3]
    os.close(dying)
