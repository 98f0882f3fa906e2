"""A client as the hub sees it, and the peer that speaks for it, in one process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from pagemerge import _core
from pagemerge.errors import ProtocolError
from pagemerge.hub import wire
from pagemerge.hub.client import Client
from pagemerge.hub.link import Link
from pagemerge.hub.patience import Unlimited


class Ends:
    """A client of the hub's, and the peer that speaks for it."""

    def __init__(self, pid: int) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.account = Unlimited()
        self.link = Link(ours, self._frame, self._end)
        self.client = Client(pid, os.getuid(), "x", _core.Peer(pid), self.link, claims=self.account)

    def _frame(self, *_: object) -> None:
        raise ProtocolError("out of turn")

    def _end(self, _: str) -> None:
        self.client.close()

    def question(self) -> int:
        """The number of the question that the hub has asked."""
        number: int = wire.HEADER.unpack_from(self.peer.recv(100))[2]
        return number

    async def refresh(self, regions: bytes, behind: bytes = b"") -> object:
        """What comes of a refresh that is answered so, with more in the same breath."""
        asked = asyncio.ensure_future(self.client.refresh())
        await asyncio.sleep(0.01)
        head = wire.HEADER.pack(len(regions), wire.Kind.REGIONS, self.question())
        self.peer.send(head + regions + behind)
        return (await asyncio.gather(asked, return_exceptions=True))[0]


def run(test: Callable[[Ends], Awaitable[None]], pid: int | None = None) -> None:
    async def main() -> None:
        ends = Ends(pid or os.getpid())
        with ends.peer:
            await test(ends)
            ends.link.close("the test is over")

    asyncio.run(main())
