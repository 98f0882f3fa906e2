"""Serves one connection: its calls one after the other, in the order in which they came.

What a caller sends is never trusted. What it does not send or read in time ends its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import select
import socket
from collections import deque
from typing import Protocol, cast

from pagemerge.errors import PagemergeError
from pagemerge.hub.contact import Caller, caller_of
from pagemerge.linux.fault import told
from pagemerge.linux.text import plain
from pagemerge.service.api import refusal
from pagemerge.service.api.accounts import MOST_UNREAD, Account, Accounts
from pagemerge.service.api.answers import Answers, Request
from pagemerge.service.api.refusal import Refusal
from pagemerge.service.api.wire import MOST_CALL, MOST_REPLY, Call, Malformed, decoded, reply

log = logging.getLogger("pagemerge.api")

SILENCE = 10.0
"""Seconds in which the first call has to arrive, and every call that has begun to arrive."""
IDLE = 600.0
"""Seconds between two calls."""
STALL = 10.0
"""Seconds in which the caller has to read a reply."""
MOST_PENDING = 16
"""Calls that wait for an answer; the service reads no more of a connection that has as many."""
HIGH_WATER = 1 << 16
"""Bytes of replies that may wait to be read while the next reply is prepared."""
TOO_LONG = f"a call has at most {MOST_CALL:,} bytes"


class Server(Protocol):
    """The parts of the server that a connection needs."""

    accounts: Accounts
    answers: Answers
    connections: set[Connection]


class Connection(asyncio.Protocol):
    """One connection of a caller; all calls in the loop's thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._calls: deque[Call | Malformed] = deque()
        self._buffer = bytearray()
        self._scanned = 0
        """Bytes of the buffer that are known to contain no NUL."""
        self._task: asyncio.Task[None] | None = None
        self._has_ended = False
        """The caller sends no more; it may still read."""
        self._room = asyncio.Event()
        """Clear while the caller leaves more than ``HIGH_WATER`` bytes unread."""
        self._room.set()
        self.stalled_at = math.inf
        self._deadline = asyncio.get_running_loop().time() + SILENCE
        self._account: Account | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the caller, or tell it why not."""
        self._transport = cast(asyncio.Transport, transport)
        accounts = self._server.accounts
        try:
            self._caller: Caller = caller_of(self._socket())
        except OSError as error:
            log.debug("refused a connection: %s", told(error))
            self._transport.abort()
            return
        account = accounts.of(self._caller.uid)
        with accounts.counted(account):
            if why := accounts.refusal(account):
                log.debug("refused process %d: %s", self._caller.pid, why)
                self._transport.write(refusal.ours("Busy", why).message)
                self._transport.close()
                return
            self._transport.set_write_buffer_limits(HIGH_WATER)
            self._account = account
            account.connections.add(self)
            self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; a NUL ends a call."""
        if self._account is None:
            return
        with self._server.accounts.counted(self._account):
            self._buffer += data
            self._cut()
        if self._calls and self._task is None:
            self._task = asyncio.create_task(self._serve())
        if len(self._calls) >= MOST_PENDING:
            self._transport.pause_reading()

    def _cut(self) -> None:
        """Cut the buffer into calls."""
        loop, start = asyncio.get_running_loop(), 0
        while (end := self._buffer.find(0, max(start, self._scanned))) >= 0:
            self._take(bytes(memoryview(self._buffer)[start:end]))
            start = end + 1
            self._deadline = loop.time() + IDLE
        if start:
            del self._buffer[:start]
            if self._buffer:
                self._deadline = loop.time() + SILENCE
        elif not self._scanned and self._buffer:
            self._deadline = min(self._deadline, loop.time() + SILENCE)
        self._scanned = len(self._buffer)
        if self._scanned > MOST_CALL:
            self._buffer.clear()
            self._scanned = 0
            self._calls.append(Malformed(TOO_LONG))
            self._stop_reading()

    def _take(self, message: bytes) -> None:
        if self._has_ended:
            return
        try:
            if len(message) > MOST_CALL:
                raise Malformed(TOO_LONG)
            self._calls.append(decoded(message))
        except Malformed as error:
            self._calls.append(error)
            self._stop_reading()

    def _stop_reading(self) -> None:
        """Read nothing more: what comes after a message that is no call means nothing."""
        self._has_ended = True
        self._transport.pause_reading()

    async def _serve(self) -> None:
        """Answer the calls that have arrived."""
        try:
            while self._calls:
                call = self._calls.popleft()
                if isinstance(call, Malformed):
                    await self._send(refusal.ours("NotACall", str(call)).message)
                    break
                await self._turn()
                await self._answer(call)
                if len(self._calls) < MOST_PENDING and not self._has_ended:
                    self._transport.resume_reading()
                await asyncio.sleep(0)  # others have their turn
        except _Stalled as stalled:
            self.close(str(stalled))
        except Exception as error:
            log.error("a call failed: %s", told(error))
            self.close("the service has failed")
        finally:
            self._task = None
            allowed = SILENCE if self._buffer else IDLE
            if self._has_ended:
                allowed = STALL
                self._transport.close()  # once the replies are read
            self._deadline = asyncio.get_running_loop().time() + allowed

    async def _answer(self, call: Call) -> None:
        """Answer a call, or tell why not."""
        assert self._account
        request = Request(call, self._caller, self._account, self._is_gone)
        try:
            async with contextlib.aclosing(self._server.answers.answer(request)) as parts:
                async for parameters, continues in parts:
                    if len(parameters) > MOST_REPLY:
                        raise refusal.ours(
                            "Failed", f"the reply has {len(parameters):,} bytes: ask for less"
                        )
                    if not call.oneway:
                        await self._send(reply(parameters, continues))
        except (Refusal, PagemergeError) as error:
            found = error if isinstance(error, Refusal) else refusal.of_error(error)
            if not call.oneway:
                await self._send(found.message)
        except _Stalled:
            raise
        except Exception as error:
            log.error("%s failed: %s", plain(call.method, 100), told(error))
            why = "the service has a fault, and its log says more"
            if not call.oneway:
                await self._send(refusal.ours("Failed", why).message)

    async def _send(self, message: bytes) -> None:
        """Send a message when it is the user's turn, and wait until the caller has read most of it.

        Raises ``_Stalled`` if the caller does not read.
        """
        account = self._account
        assert account
        await self._turn()
        with self._server.accounts.counted(account):
            self._transport.write(message)
        if self.unread > HIGH_WATER:
            account.relieve(MOST_UNREAD)
        try:
            async with asyncio.timeout(STALL):
                await self._room.wait()
        except TimeoutError:
            raise _Stalled(f"it has not read a reply for {STALL:g} s") from None

    async def _turn(self) -> None:
        """Wait for the user's turn, behind its calls that wait already."""
        assert self._account
        async with self._account.queue:
            await asyncio.sleep(self._account.turns.wait)

    @property
    def unread(self) -> int:
        """Bytes of replies that the caller has not read."""
        return self._transport.get_write_buffer_size()

    def is_late(self, now: float) -> bool:
        """Return true if the caller has gone, or has not sent or read in time.

        ``now``: of the loop's clock.
        """
        if self._has_ended and self._is_gone():
            return True
        return self._task is None and now > self._deadline

    def _is_gone(self) -> bool:
        """Return true if the caller has closed the connection: not only the half that it sends by,
        as a program does that sends one call and waits for the reply."""
        if not self._has_ended or self._socket().fileno() < 0:
            return self._transport.is_closing()
        poll = select.poll()
        poll.register(self._socket(), 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def _socket(self) -> socket.socket:
        return cast(socket.socket, self._transport.get_extra_info("socket"))

    def close(self, why: str) -> None:
        """End the connection at once."""
        log.debug("a connection ends: %s", why)
        self._transport.abort()

    def pause_writing(self) -> None:
        """Note that the caller leaves much unread."""
        self.stalled_at = asyncio.get_running_loop().time()
        self._room.clear()

    def resume_writing(self) -> None:
        """Note that the caller has read."""
        self.stalled_at = math.inf
        self._room.set()

    def eof_received(self) -> bool:
        """Go on with the calls that have arrived: the caller sends no more."""
        self._has_ended = True
        self._buffer.clear()
        return self._task is not None

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection, and stop the work for it."""
        self._room.set()
        if self._task is not None:
            self._task.cancel()
        if self._account is not None:
            self._account.connections.discard(self)
            self._server.connections.discard(self)


class _Stalled(Exception):
    """A caller does not read."""
