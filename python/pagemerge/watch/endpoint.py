"""Serves metrics over HTTP: ``GET /metrics``, on a loopback port or a Unix socket, nothing else.

The figures name processes of all users, so other hosts do not get them from here: a proxy with
authentication can pass them on. A client gets little time, few connections are open at once, and
for a new one the connection that has waited longest for its request is closed. So clients that are
slow, or that send nothing, do not keep the others waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import AccessDenied, PagemergeError, UsageError
from pagemerge.linux.text import plain
from pagemerge.linux.threads import LIMITS

log = logging.getLogger("pagemerge.metrics")

MOST_CONNECTIONS = 64
"""Connections that are open at once."""
MOST_HEAD = 8192
"""Bytes of a request."""
PATIENCE = 5.0
"""Seconds that a client may take to send its request, and to take the answer."""
FRESH = 0.5
"""Seconds for which figures that were read are given to others, too."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: ``path``, or else ``host`` and ``port``."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``127.0.0.1:9838``, ``[::1]:9838``, ``localhost:9838``, ``9838``, or the absolute
        path of a socket. Raises ``UsageError``."""
        if text.startswith("/"):
            return cls(path=Path(text))
        found = re.fullmatch(r"(?:(?:\[([0-9a-fA-F:.]+)\]|([a-zA-Z0-9.]+)):)?([0-9]{1,5})", text)
        if not found or int(found[3]) > 65535:
            raise UsageError(f"{text!r} is not an address such as 127.0.0.1:9838 or /run/it.sock")
        host = found[1] or found[2] or "127.0.0.1"
        host = "127.0.0.1" if host == "localhost" else host
        try:
            is_loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            is_loopback = False
        if not is_loopback:
            raise UsageError(
                f"{text!r} is no loopback address, and metrics name processes of all users: "
                "listen at 127.0.0.1, and have a proxy with authentication pass them on"
            )
        return cls(host, int(found[3]))


class Endpoint:
    """Answers requests with what ``text`` returns; it runs in one thread of its own."""

    def __init__(self, text: Callable[[], bytes], content_type: str) -> None:
        self._text, self._type = text, content_type
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._reading: asyncio.Future[bytes] | None = None
        self._last = b""
        """What was read last."""
        self._read_at = float("-inf")
        self._open: dict[asyncio.StreamWriter, bool] = {}
        """Connections in the order of their coming -> whether the request has come."""

    @asynccontextmanager
    async def serving(self, address: Address) -> AsyncIterator[str]:
        """Serve at ``address`` inside the context; yields the URL, or the path of the socket.

        The figures are read once before, so that there is always an answer. Raises ``UsageError``
        or ``PagemergeError`` if it cannot be listened there, and what ``text`` raises.
        """
        listening, where = _listen(address)
        try:
            loop = asyncio.get_running_loop()
            self._last = await loop.run_in_executor(self._thread, self._text)
            server = await asyncio.start_server(self._serve, sock=listening, limit=MOST_HEAD)
            try:
                yield where
            finally:
                server.close()
                for writer in list(self._open):
                    writer.transport.abort()
        finally:
            listening.close()
            if address.path is not None:
                address.path.unlink(missing_ok=True)
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._admit(writer)
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
            self._open[writer] = True
            answer = await self._answer(head)
            # Else drain would return while most of it is still here.
            writer.transport.set_write_buffer_limits(0)
            async with asyncio.timeout(PATIENCE):
                writer.write(answer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # it sent no request, or does not take the answer
        finally:
            self._open.pop(writer, None)

    def _admit(self, writer: asyncio.StreamWriter) -> None:
        """Note a connection; close another one if there are too many."""
        if len(self._open) >= MOST_CONNECTIONS:
            waiting = (it for it, has_asked in self._open.items() if not has_asked)
            oldest = next(waiting, next(iter(self._open)))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = False

    async def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", b"this is no request of HTTP/1\n")
        if words[1].partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", b"only /metrics is here\n")
        if words[0] != b"GET":
            return _response("405 Method Not Allowed", b"use GET\n", "Allow: GET")
        try:
            body = await self._figures()
        except Exception as error:
            if isinstance(error, PagemergeError):
                log.error("cannot read the figures: %s", error)
            else:
                log.exception("cannot read the figures")
            told = f"cannot read the figures: {plain(str(error), 300)}\n"
            return _response("500 Internal Server Error", told.encode())
        return _response("200 OK", body, content_type=self._type)

    async def _figures(self) -> bytes:
        """Read the figures, once for all who ask at the same time.

        If that takes long, because a process keeps the reader waiting, the answer is what was read
        before, with the time of then.
        """
        loop = asyncio.get_running_loop()
        is_old = loop.time() - self._read_at >= FRESH
        if self._reading is None or (self._reading.done() and is_old):
            try:
                self._reading = loop.run_in_executor(self._thread, self._text)
            except RuntimeError:
                raise PagemergeError(f"no thread can be started: {LIMITS}") from None
            self._read_at = loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                # A client that leaves must not cancel what others wait for.
                self._last = await asyncio.shield(self._reading)
        return self._last


def _response(
    status: str, body: bytes, more: str = "", content_type: str = "text/plain; charset=utf-8"
) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, *filter(None, [more]), "", ""]).encode() + body


def _listen(address: Address) -> tuple[socket.socket, str]:
    """Open the socket to listen at, and return how to reach it."""
    if address.path is not None:
        return _listen_at_path(address.path), str(address.path)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address.host, address.port))
        opened.listen()
    except OSError as error:
        opened.close()
        told = f"cannot listen at {address.host} port {address.port}: {error.strerror}"
        raise PagemergeError(f"{told}: name another port") from None
    host = f"[{address.host}]" if family == socket.AF_INET6 else address.host
    return opened, f"http://{host}:{opened.getsockname()[1]}/metrics"


def _listen_at_path(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > 107:
        raise UsageError(f"{path} is longer than a socket's path may be: 107 bytes (unix(7))")
    _clear(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.bind(str(path))
        path.chmod(0o660)  # its owner and group
        opened.listen()
    except OSError as error:
        opened.close()
        told = f"cannot listen at {path}: {error.strerror}: choose a folder that belongs to you"
        kind = AccessDenied if isinstance(error, PermissionError) else PagemergeError
        raise kind(told, path=str(path)) from None
    return opened


def _clear(path: Path) -> None:
    """Remove the socket of a program that was killed. Raises ``UsageError`` if one listens, or for
    anything that is no socket."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return
    if not is_socket:
        raise UsageError(f"{path} exists and is no socket: name another path", path=str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                path.unlink()
            return
        except OSError:
            pass  # a program listens, and is busy
    raise UsageError(f"another program listens at {path}: name another path", path=str(path))
