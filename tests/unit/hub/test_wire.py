"""The wire: Python and Rust mean the same; a link survives what a client may send."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pagemerge import _core
from pagemerge.errors import HubError, ProtocolError
from pagemerge.hub import wire
from pagemerge.hub.link import Link


def test_both_sides_mean_the_same() -> None:
    assert {kind.name: kind.value for kind in wire.Kind} == _core.WIRE_KINDS
    assert set(wire.BARRIERS.values()) == {"intern", "move", "write-protect", "park"}
    assert (wire.HEADER.size, wire.HELLO.size, wire.INTERN.size) == (16, 8, 32)
    assert (wire.REGION.itemsize, wire.RUN.itemsize) == (40, 24)


def test_bodies_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ProtocolError):
        wire.rows(b"123", wire.RUN)
    with pytest.raises(ProtocolError):
        wire.unpack(b"123", wire.HELLO)
    assert len(wire.rows(b"", wire.RUN)) == 0


class Ends:
    """A link, and the plain socket at its other end."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.peer.settimeout(5)
        self.frames: list[tuple[int, int, bytes]] = []
        self.ended: list[str] = []
        self.changed = asyncio.Event()
        self.link = Link(ours, self._frame, self._end)

    def _frame(self, kind: int, sequence: int, body: bytes) -> None:
        self.frames.append((kind, sequence, body))
        self.changed.set()

    def _end(self, why: str) -> None:
        self.ended.append(why)
        self.changed.set()

    async def change(self) -> None:
        await asyncio.wait_for(self.changed.wait(), 5)
        self.changed.clear()


def run(test: Callable[[Ends], Awaitable[None]]) -> None:
    async def main() -> None:
        ends = Ends()
        try:
            await test(ends)
        finally:
            ends.link.close("the test is over")
            ends.peer.close()

    asyncio.run(main())


def frame(kind: int, sequence: int = 0, body: bytes = b"") -> bytes:
    return wire.HEADER.pack(len(body), kind, sequence) + body


def test_frames_in_pieces_and_in_heaps() -> None:
    async def test(ends: Ends) -> None:
        data = frame(1, 3, b"hello") + frame(2, 5)
        for byte in data[:-1]:
            ends.peer.send(bytes([byte]))
        await ends.change()
        assert ends.frames == [(1, 3, b"hello")]
        ends.peer.send(data[-1:] + data)
        while len(ends.frames) < 4:
            await ends.change()
        assert ends.frames[2:] == [(1, 3, b"hello"), (2, 5, b"")]

    run(test)


def test_an_answer_finds_its_question() -> None:
    async def test(ends: Ends) -> None:
        first, second = ends.link.ask(18), ends.link.ask(18, b"x")
        data = ends.peer.recv(1000)
        sequence = [wire.HEADER.unpack_from(data, at)[2] for at in (0, wire.HEADER.size)]
        ends.peer.send(frame(2, sequence[1], b"two") + frame(2, sequence[0], b"one"))
        assert await asyncio.wait_for(first, 5) == b"one"
        assert await asyncio.wait_for(second, 5) == b"two"

    run(test)


def test_an_answer_that_nobody_waits_for_any_more() -> None:
    async def test(ends: Ends) -> None:
        late: list[bytes] = []
        future = ends.link.ask(18, late=late.append)
        future.set_exception(TimeoutError())
        with pytest.raises(TimeoutError):
            await future
        assert ends.link.owes
        sequence = wire.HEADER.unpack_from(ends.peer.recv(1000))[2]
        ends.peer.send(frame(2, sequence, b"at last"))
        while ends.link.owes:
            await asyncio.sleep(0.01)
        assert late == [b"at last"]
        assert ends.link.open

    run(test)


def test_a_question_ends_with_the_connection() -> None:
    async def test(ends: Ends) -> None:
        future = ends.link.ask(18)
        ends.peer.close()
        with pytest.raises(HubError):
            await asyncio.wait_for(future, 5)
        assert len(ends.ended) == 1
        with pytest.raises(HubError):
            await ends.link.ask(18)

    run(test)


def test_an_endless_frame_ends_the_connection() -> None:
    async def test(ends: Ends) -> None:
        ends.peer.send(b"\xff" * 16)
        await ends.change()
        assert "protocol" in ends.ended[0]
        assert not ends.link.open

    run(test)


def test_descriptors_nobody_announced_end_the_connection_and_are_closed() -> None:
    async def test(ends: Ends) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with Path(os.devnull).open("rb") as null:
            for _ in range(20):
                socket.send_fds(ends.peer, [b"\0"], [null.fileno()] * 50)
        while not ends.ended:
            await ends.change()
        deadline = time.monotonic() + 5
        # In a thread, since closing them may wait for whoever serves them. The link's own is
        # closed, too.
        while len(list(Path("/proc/self/fd").iterdir())) != before - 1:
            assert time.monotonic() < deadline, "they are still open"
            await asyncio.sleep(0.01)

    run(test)


def test_a_client_that_does_not_read_is_let_go() -> None:
    async def test(ends: Ends) -> None:
        for _ in range(10):
            ends.link.send(20, 0, bytes(60 << 20))
        assert ends.ended == ["it does not read what it is sent"]

    run(test)


def test_a_descriptor_rides_with_its_frame() -> None:
    async def test(ends: Ends) -> None:
        read, write = os.pipe()
        ends.link.send(19, descriptor=write)
        os.close(write)
        data, descriptors, _, _ = socket.recv_fds(ends.peer, 1000, 4)
        assert data == frame(19)
        os.write(descriptors[0], b"x")
        os.close(descriptors[0])
        assert os.read(read, 2) == b"x"
        assert os.read(read, 2) == b"", "somebody kept a copy"
        os.close(read)

    run(test)
