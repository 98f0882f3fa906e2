"""The hub's end of one connection: receives and sends frames, and descriptors with them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable

from pagemerge.errors import HubError, PagemergeError, ProtocolError
from pagemerge.hub import wire
from pagemerge.hub.closing import Closer
from pagemerge.linux.fault import told

MOST_DESCRIPTORS = 16
"""The most descriptors received and not yet taken; the hub disconnects a peer that sends more."""
MOST_WAITING = 16 << 20
"""The most bytes that a client may leave unread before the hub disconnects it."""
MOST_BODY = 4 << 20
"""The most bytes of a frame's body from an agent: enough for 100,000 regions."""
MOST_GREETING = 4096
"""The most bytes of a frame before the greeting is accepted, the greeting itself included."""
MOST_AT_ONCE = 1 << 16
"""The most bytes of a read."""
SLICE = 0.0005
"""Seconds for the frames of one peer, before the others have their turn."""
PERIOD, ALLOWED = 0.1, 0.003
"""A peer whose frames take less than ``ALLOWED`` seconds of each ``PERIOD`` waits for no turn."""
LONGEST_TURN = 0.1
"""The most seconds that a peer waits for its turn: an honest peer must not wait long for the other
processes of its user."""

Late = Callable[[bytes], object]
"""Called with the body of an answer that no caller waits for any more."""

Handler = Callable[[int, int, bytes], None]
"""Called with kind, sequence number and body of each frame that answers no ``ask``."""


class Link:
    """Frames over a connected, non-blocking Unix stream socket; all calls in the loop's thread."""

    def __init__(
        self,
        peer: socket.socket,
        on_frame: Handler,
        on_end: Callable[[str], None],
        closer: Closer | None = None,
        may_receive: Callable[[int], bool] = lambda _: True,
        leaves_unread: Callable[[int], None] = lambda _: None,
        turn: Callable[[float], float] = lambda _: 0.0,
    ) -> None:
        """Serve ``peer``.

        ``closer`` closes the descriptors that the peer sends. ``may_receive`` gets the bytes of
        frames that have arrived, or negative the bytes that were handled, and returns whether so
        many may be held. ``leaves_unread`` gets the bytes of our frames that the peer has not read,
        or negative those that it has read. ``turn`` gets the seconds that the frames of a busy peer
        have taken, and returns the seconds that the peer has to wait."""
        self.most = MOST_BODY
        """The most bytes of a frame's body."""
        self._closer = closer or Closer()
        self._may_receive = may_receive
        self._leaves_unread = leaves_unread
        self._turn = turn
        self._spent, self._since = 0.0, 0.0
        """Seconds that its frames have taken in this period, and when the period began."""
        self._paused = 0
        self._socket = peer
        # By its number: asyncio formats an error text for each socket object that is new to it.
        self._number = peer.fileno()
        self._on_frame = on_frame
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._descriptors: deque[int | None] = deque()
        """Descriptors in the order of their frames; None for a descriptor that found no room."""
        self._waiting: deque[tuple[memoryview, int | None]] = deque()
        self.unread = 0
        """Bytes of frames that wait because the socket has no room for them yet."""
        self._asked: dict[int, tuple[asyncio.Future[bytes], Late | None]] = {}
        self._sequence = 0
        self.open = True
        self._loop.add_reader(self._number, self._readable)

    def send(
        self, kind: int, sequence: int = 0, body: bytes = b"", descriptor: int | None = None
    ) -> None:
        """Send a frame, now or when there is room; nothing is sent on a closed link.

        ``descriptor`` is duplicated, so the caller may close its own at once.
        """
        if not self.open:
            return
        frame = wire.HEADER.pack(len(body), kind, sequence) + body
        held = None if descriptor is None else os.dup(descriptor)
        self._waiting.append((memoryview(frame), held))
        self._note_unread(len(frame))
        if self.unread > MOST_WAITING:
            self.close("it does not read what it is sent")
            return
        self._writable()

    def _note_unread(self, count: int) -> None:
        self.unread += count
        self._leaves_unread(count)

    @property
    def owes(self) -> bool:
        """True if the peer has not answered all questions."""
        return bool(self._asked)

    def ask(self, kind: int, body: bytes = b"", late: Late | None = None) -> asyncio.Future[bytes]:
        """Send a frame and return a future with the body of its answer.

        The future raises ``HubError`` if the link ends. If it is done when the answer comes,
        ``late`` gets the answer.
        """
        self._sequence += 2  # even numbers are the hub's
        future: asyncio.Future[bytes] = self._loop.create_future()
        if self.open:
            self._asked[self._sequence] = future, late
            self.send(kind, self._sequence, body)
        else:
            future.set_exception(HubError("the client has gone"))
        return future

    def take_descriptor(self) -> int | None:
        """Return the descriptor that came with a frame; the caller closes it.

        The caller uses the ``closer`` of this link, or calls ``closer.let_go`` first. None if this
        process could open no more descriptors (RLIMIT_NOFILE). Raises ``ProtocolError`` if the
        frame came without one.
        """
        if not self._descriptors:
            raise ProtocolError("a frame lacks its descriptor")
        return self._descriptors.popleft()

    def greeted(self, most: int) -> None:
        """Allow bodies of up to ``most`` bytes from now on."""
        self.most = most

    def pause(self) -> None:
        """Read nothing more until ``resume`` has been called as often as ``pause``."""
        self._paused += 1
        if self._paused == 1 and self.open:
            self._loop.remove_reader(self._number)

    def resume(self) -> None:
        """Continue with the frames that have arrived meanwhile."""
        self._paused -= 1
        if self._paused == 0 and self.open:
            self._loop.add_reader(self._number, self._readable)
            self._loop.call_soon(self._guarded, self._frames)

    def close(self, why: str) -> None:
        """End the connection, and tell the owner why; further calls do nothing."""
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._number)
        self._loop.remove_writer(self._number)
        self._socket.close()
        for descriptor in self._descriptors:
            if descriptor is not None:
                self._closer.close(descriptor)
        for _, descriptor in self._waiting:
            if descriptor is not None:
                os.close(descriptor)
        self._descriptors.clear()
        self._waiting.clear()
        self._note_unread(-self.unread)
        self._may_receive(-len(self._received))
        self._received.clear()
        for future, _ in self._asked.values():
            if not future.done():
                future.set_exception(HubError("the client has gone"))
                future.exception()  # no warning if the caller no longer waits for it
        self._asked.clear()
        self._on_end(why)

    def _writable(self) -> None:
        while self._waiting:
            data, descriptor = self._waiting[0]
            try:
                if descriptor is None:
                    sent = self._socket.send(data)
                else:
                    sent = socket.send_fds(self._socket, [data], [descriptor])
            except BlockingIOError:
                self._loop.add_writer(self._number, self._writable)
                return
            except OSError as error:
                self.close(str(error))
                return
            if descriptor is not None:
                os.close(descriptor)
            self._note_unread(-sent)
            if sent < len(data):
                self._waiting[0] = (data[sent:], None)
            else:
                self._waiting.popleft()
        self._loop.remove_writer(self._number)

    def _readable(self) -> None:
        if not self.open or self._paused:
            return
        self._guarded(self._receive)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do some work; an error that a peer's frames cause ends this peer's connection only."""
        try:
            work()
        except ProtocolError as error:
            self.close(f"it does not speak the protocol: {error}")
        except (PagemergeError, OSError) as error:
            self.close(str(error))
        except Exception as error:
            self.close(f"the hub failed: {told(error)}")

    def _receive(self) -> None:
        size = min(self.most + wire.HEADER.size, MOST_AT_ONCE)
        room = MOST_DESCRIPTORS if self._closer.held < MOST_DESCRIPTORS * 8 else 0
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._socket, size, room)
        except (BlockingIOError, InterruptedError):
            return
        self._closer.received(len(descriptors))
        self._descriptors.extend(descriptors)
        if flags & socket.MSG_CTRUNC:
            self._descriptors.append(None)
        if len(self._descriptors) > MOST_DESCRIPTORS:
            raise ProtocolError("more descriptors than announced")
        if not data:
            self.close("it has ended")
            return
        self._received += data
        if not self._may_receive(len(data)):
            raise ProtocolError("its user has sent too much that is not finished")
        self._frames()

    def _frames(self) -> None:
        """Handle the frames that have arrived; a peer that sends much waits for its next turn."""
        began = self._loop.time()
        if began - self._since > PERIOD:
            self._since, self._spent = began, 0.0
        while self.open and not self._paused and len(self._received) >= wire.HEADER.size:
            length, kind, sequence = wire.HEADER.unpack_from(self._received)
            if length > self.most:
                raise ProtocolError(f"a frame of {length} bytes")
            size = wire.HEADER.size + length
            if len(self._received) < size:
                break
            body = bytes(self._received[wire.HEADER.size : size])
            del self._received[:size]
            self._may_receive(-size)
            asked = self._asked.pop(sequence, None) if sequence % 2 == 0 else None
            if asked is None:
                self._on_frame(kind, sequence, body)
            else:
                _answer(*asked, body)
            if self._loop.time() - began > SLICE:
                break
        took = self._loop.time() - began
        self._spent += took
        if took > SLICE and self.open and not self._paused:
            wait = 0.0 if self._spent < ALLOWED else min(self._turn(took), LONGEST_TURN)
            self.pause()
            self._loop.call_later(wait, self.resume)


def _answer(future: asyncio.Future[bytes], late: Late | None, body: bytes) -> None:
    if not future.done():
        future.set_result(body)
    elif late is not None:
        late(body)
