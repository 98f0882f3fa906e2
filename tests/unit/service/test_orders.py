"""Orders reach the governor, and its decisions the watch, whatever the other side does."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.ksmd.model import Listener
from pagemerge.service import orders
from pagemerge.service.orders import MOST_WAITING, Answer, Line, Order, obey


class Noted:
    """Notes what it is told to do."""

    def __init__(self) -> None:
        self.paused = False
        self.decided: Listener

    def tell(self, listener: Listener) -> None:
        self.decided = listener

    def pause(self) -> bool:
        before, self.paused = self.paused, True
        return not before

    def resume(self) -> bool:
        raise PagemergeError("ksmd does not obey")


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The governor's end and the watch's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        yield ours, theirs


def test_orders_and_decisions(ends: tuple[socket.socket, socket.socket]) -> None:
    governor, line = Noted(), Line(ends[1])
    obey(ends[0], governor)
    governor.decided("memory is short", {"run": 1})
    assert line.order("pause") is True
    governor.decided("somebody has paused merging", {"run": 0})
    assert line.order("pause") is False
    with pytest.raises(PagemergeError, match="ksmd does not obey"):
        line.order("resume")
    told = [(it.reason, it.knobs) for it in line.decisions()]
    assert told == [("memory is short", {"run": 1}), ("somebody has paused merging", {"run": 0})]
    assert line.decisions() == []


def test_a_governor_that_does_not_answer(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "PATIENCE", 0.05)
    line = Line(ends[1])
    with pytest.raises(Unsupported, match="the governor has not answered"):
        line.order("pause")
    first = msgspec.json.decode(ends[0].recv(1 << 16), type=Order)
    # Its answer comes too late, and is not taken for the answer to the next order.
    ends[0].send(msgspec.json.encode(Answer(first.number, True)))
    with pytest.raises(Unsupported):
        line.order("pause")


def test_a_watch_that_does_not_read_stops_no_governor(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    governor = Noted()
    obey(ends[0], governor)
    done = threading.Event()

    def decide() -> None:
        for _ in range(5000):
            governor.decided("again", {})
        done.set()

    threading.Thread(target=decide, daemon=True).start()
    assert done.wait(20)
    assert 0 < len(Line(ends[1]).decisions()) < 5000


def test_nobody_asks_for_decisions_and_the_last_ones_stay(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """Without a history, nobody asks until a caller of the API does."""
    governor, line = Noted(), Line(ends[1])
    obey(ends[0], governor)

    async def beside_a_loop() -> None:
        asyncio.get_running_loop().add_reader(line, line.take_in)
        for number in range(5000):
            governor.decided(f"decision {number}", {})
            await asyncio.sleep(0)

    asyncio.run(beside_a_loop())
    told = [it.reason for it in line.decisions()]
    assert told == [f"decision {number}" for number in range(5000 - MOST_WAITING, 5000)]


def test_a_governor_ignores_orders_to_the_one_before_it(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "PATIENCE", 0.05)
    governor, line = Noted(), Line(ends[1])
    with pytest.raises(Unsupported):
        line.order("pause")
    obey(ends[0], governor)
    monkeypatch.setattr(orders, "PATIENCE", 20.0)
    assert line.order("pause") is True, "it was not paused yet"


def test_an_order_that_was_given_up_is_not_carried_out(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """The governor was stopped, say, and goes on after its caller was told of the failure."""
    governor, line = Noted(), Line(ends[1])
    obey(ends[0], governor)
    ends[1].send(msgspec.json.encode(Order(1, "pause", until=0.0)))
    assert line.order("pause") is True, "it was not paused yet"
