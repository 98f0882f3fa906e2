"""What the governor tells the watch, and what the watch has the governor do.

They are two processes of one daemon, which makes a pair of datagram sockets for them. Each message
is a JSON object. The sockets outlive both processes. A governor that starts ignores orders to the
one before it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.ksmd.model import Listener
from pagemerge.linux.threads import start
from pagemerge.watch.model import Decision

MOST = 1 << 16
"""Bytes of a message."""

MOST_WAITING = 1000
"""Decisions that wait in the watch until a reader asks for them; older ones are dropped."""

PATIENCE = 10.0
"""Seconds that the watch waits for the answer to an order."""


class Order(msgspec.Struct, frozen=True, tag=True):
    """From the watch: merge nothing more, or go on."""

    number: int
    what: Literal["pause", "resume"]
    until: float
    """When whoever gave it is told that it has failed, on the monotonic clock, which all processes
    share: it must not be carried out later."""


class Answer(msgspec.Struct, frozen=True, tag=True):
    """To the watch: whether the order with this number has changed anything, or why it failed."""

    number: int
    changed: bool
    error: str = ""


class Told(msgspec.Struct, frozen=True, tag=True):
    """To the watch: a decision."""

    decision: Decision


class Governed(Protocol):
    """The parts of a governor that orders need."""

    def tell(self, listener: Listener) -> None:
        """Have each decision that changes something, or has a new reason, told from now on."""

    def pause(self) -> bool:
        """Have ksmd merge nothing more; false if that is so already."""

    def resume(self) -> bool:
        """Go on; false if it was not paused."""


def obey(channel: socket.socket, governor: Governed) -> None:
    """In the governor's process: tell its decisions, and carry out orders in a thread.

    Raises ``PagemergeError`` if no thread can be started.
    """
    _empty(channel)
    governor.tell(lambda reason, knobs: _send(channel, Told(Decision(time.time(), reason, knobs))))

    def listen() -> None:
        while True:
            try:
                data = channel.recv(MOST)
            except OSError:  # the channel is closed: this process ends
                return
            order = msgspec.json.decode(data, type=Order)
            if time.monotonic() >= order.until:
                continue
            changed, error = False, ""
            try:
                changed = governor.pause() if order.what == "pause" else governor.resume()
            except PagemergeError as failure:
                error = str(failure)
            _send(channel, Answer(order.number, changed, error))

    start(listen, "orders")


def _empty(channel: socket.socket) -> None:
    """Throw away orders to the governor before this one: whoever gave them was told that they have
    failed."""
    with contextlib.suppress(BlockingIOError):
        while True:
            channel.recv(MOST, socket.MSG_DONTWAIT)


def _send(channel: socket.socket, message: msgspec.Struct) -> None:
    """Send a message; it is lost if the other side does not read, so as not to wait for it."""
    with contextlib.suppress(OSError):
        channel.send(msgspec.json.encode(message), socket.MSG_DONTWAIT)


class Line:
    """The watch's end of the channel. All methods may be called from any thread."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        # Numbers unlike those of a watch before us, whose answers may still come.
        self._numbers = itertools.count(os.getpid() << 20)
        self._lock = threading.Lock()
        self._decisions: deque[Decision] = deque(maxlen=MOST_WAITING)
        self._answer: Answer | None = None

    def decisions(self) -> Sequence[Decision]:
        """Return the decisions since the last call, oldest first."""
        with self._lock:
            self._read()
            found = list(self._decisions)
            self._decisions.clear()
        return found

    def fileno(self) -> int:
        """Return the descriptor of the channel: ``take_in`` when it can be read."""
        return self._channel.fileno()

    def take_in(self) -> None:
        """Empty the channel, which has room for some hundred messages. The governor drops what it
        has no room for, so a channel that nobody empties would keep the oldest decisions."""
        with self._lock:
            self._read()

    def order(self, what: Literal["pause", "resume"]) -> bool:
        """Have the governor do something, and return whether that has changed anything. Blocks.

        Raises ``PagemergeError`` if it cannot, and ``Unsupported`` if it does not answer.
        """
        number, deadline = next(self._numbers), time.monotonic() + PATIENCE
        _send(self._channel, Order(number, what, deadline))
        while time.monotonic() < deadline:
            with self._lock:
                self._read()
                answer = self._answer
            if answer and answer.number == number:
                if answer.error:
                    raise PagemergeError(answer.error)
                return answer.changed
            time.sleep(0.01)
        raise Unsupported(
            f"the governor has not answered for {PATIENCE:g} s: it may be starting; try again"
        )

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := self._channel.recv(MOST):
                found = msgspec.json.decode(data, type=Told | Answer)
                if isinstance(found, Told):
                    self._decisions.append(found.decision)
                else:
                    self._answer = found
