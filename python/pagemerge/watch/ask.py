"""Calls the service of this host or of this user, over its API (docs/api.md).

Blocking, by a plain socket. Every wait has a deadline.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pagemerge.errors import (
    AccessDenied,
    NoSuchProcess,
    PagemergeError,
    ServiceError,
    Unsupported,
    UsageError,
)
from pagemerge.hub import reach
from pagemerge.linux.text import plain
from pagemerge.watch.model import Decision, Moment, Row

SYSTEM = Path("/run/pagemerge/api.sock")
"""Where the service of root listens."""

_CREDENTIALS = struct.Struct("3i")

MOST_REPLY = 64 << 20
"""The most bytes of a reply."""

_ERRORS: dict[str, type[PagemergeError]] = {
    "org.pagemerge.NotAllowed": AccessDenied,
    "org.pagemerge.NoSuchProcess": NoSuchProcess,
    "org.pagemerge.Unsupported": Unsupported,
    "org.pagemerge.WrongUsage": UsageError,
    "org.varlink.service.InvalidParameter": UsageError,
}
"""Error of the interface -> our class; all others become ``ServiceError``."""


def places() -> list[Path]:
    """Return where a service may listen: beside this user's hub, or else beside that of root.

    If PAGEMERGE_SOCKET names a hub, only the service of that hub counts.
    """
    own = reach.socket_path().with_name("api.sock")
    return [own] if os.environ.get("PAGEMERGE_SOCKET") else list(dict.fromkeys((own, SYSTEM)))


class Service:
    """A connection to a service, as a context: one call at a time.

    ``path``: where it listens; by default this user's own service, or else that of root.
    ``timeout``: seconds that each wait for the service may take.
    """

    def __init__(self, path: Path | None = None, timeout: float = 20.0) -> None:
        self._timeout = timeout
        self._buffer = bytearray()
        self.path, self._socket = _connected(path, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def call(self, method: str, timeout: float | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method, and return the parameters of its reply.

        ``method``: its name, with its interface or without if that is ours. Raises the error that
        the service tells (``AccessDenied``, ``NoSuchProcess``, ``Unsupported``, ``UsageError``, or
        ``ServiceError``), and ``ServiceError`` if the service does not answer in ``timeout``
        seconds (default: the connection's).
        """
        self._send({"method": _full(method), "parameters": parameters})
        found, _ = self._reply(timeout or self._timeout)
        return found

    def stream(
        self, method: str, timeout: float | None = None, **parameters: Any
    ) -> Iterator[dict[str, Any]]:
        """Call a method that replies again and again, and yield the parameters of each reply.

        ``timeout``: seconds from one reply to the next. Raises what ``call`` raises. If the caller
        stops early, the connection is closed: a service sends to the end.
        """
        self._send({"method": _full(method), "parameters": parameters, "more": True})
        continues = False
        try:
            while True:
                continues = False  # after an error, the service sends no more
                found, continues = self._reply(timeout or self._timeout)
                yield found
                if not continues:
                    return
        finally:
            if continues:
                self.close()

    def status(self) -> Moment:
        """Return the figures of now."""
        return _moment(self.call("Status")["moment"])

    def subscribe(self, interval: float = 2.0, count: int | None = None) -> Iterator[Moment]:
        """Yield the figures again and again, ``interval`` seconds apart."""
        asked = {"interval_seconds": interval, "count": count}
        for reply in self.stream("Subscribe", interval + self._timeout, **asked):
            yield _moment(reply["moment"])

    def history(self, seconds: float, most: int = 1000) -> Iterator[Moment]:
        """Yield the figures of the past ``seconds``, oldest first."""
        for reply in self.stream("History", seconds=seconds, most=most):
            if reply["moment"] is not None:
                yield _moment(reply["moment"])

    def rows(self, method: str = "Clients", **parameters: Any) -> list[Row]:
        """Return the rows of ``Clients`` or ``Guests``."""
        import msgspec

        return msgspec.convert(self.call(method, **parameters)["rows"], list[Row])

    def decisions(self) -> list[Decision]:
        """Return the last decisions of the governor, oldest first."""
        return [_decision(it) for it in self.call("Decisions")["decisions"]]

    def _send(self, call: dict[str, Any]) -> None:
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(json.dumps(call).encode() + b"\0")
        except ConnectionError:
            return  # the service has refused the connection: its reason is there to read
        except OSError as error:
            raise self._broken(error) from error

    def _reply(self, timeout: float) -> tuple[dict[str, Any], bool]:
        message = self._message(timeout)
        try:
            reply = json.loads(message)
            parameters = reply.get("parameters") or {}
            name = reply.get("error")
            continues = bool(reply.get("continues"))
        except (ValueError, AttributeError, RecursionError):
            raise ServiceError(
                f"the program that listens at {self.path} is no pagemerge service",
                path=str(self.path),
            ) from None
        if name is None:
            return parameters, continues
        told = parameters.get("message") or ", ".join(map(str, parameters.values()))
        kind = _ERRORS.get(name, ServiceError)
        if kind is ServiceError and not str(name).startswith("org.pagemerge."):
            told = f"the service at {self.path} refuses: {name} {told}"
        raise kind(plain(str(told), 4000))

    def _message(self, timeout: float) -> bytes:
        """Return the next message. Raises ``ServiceError`` if it does not come in time."""
        deadline, scanned = time.monotonic() + timeout, 0
        try:
            while (end := self._buffer.find(0, scanned)) < 0:
                scanned = len(self._buffer)
                if scanned > MOST_REPLY:
                    raise ServiceError(f"the service at {self.path} sends an endless reply")
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                part = self._socket.recv(1 << 18)
                if not part:
                    raise ConnectionResetError("it has closed the connection")
                self._buffer += part
        except OSError as error:
            raise self._broken(error) from error
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return message

    def _broken(self, error: OSError) -> ServiceError:
        """Close the connection: a reply that is late would count as the reply to the next call."""
        self.close()
        why = error.strerror or error
        if isinstance(error, TimeoutError):
            why = "it takes too long"
        elif error.errno == errno.EBADF:
            why = "the connection to it is closed already"
        return ServiceError(
            f"the service at {self.path} gives no answer: {why}", path=str(self.path)
        )


def _connected(path: Path | None, timeout: float) -> tuple[Path, socket.socket]:
    """Connect to the first service that listens. Raises ``ServiceError``."""
    tried = [path] if path else places()
    for one in tried:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(timeout)
        try:
            peer.connect(str(one))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            peer.close()
        except OSError as error:
            peer.close()
            why = f"cannot connect to the service at {one}: {error.strerror or error}"
            raise ServiceError(why, path=str(one)) from error
        else:
            if path or _may_tell(peer):
                return one, peer
            peer.close()
    where = " or ".join(map(str, tried))
    raise ServiceError(
        f"no service runs at {where}: start one with `pagemerge daemon --config FILE`",
        path=str(tried[0]),
    )


def _may_tell(peer: socket.socket) -> bool:
    """Is it a process of root or of this user that listens (SO_PEERCRED, unix(7))? Another user may
    have made the directory in /tmp before us."""
    about = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(about)
    return uid in (0, os.geteuid())


def _full(method: str) -> str:
    return method if "." in method else f"org.pagemerge.{method}"


def _moment(found: Any) -> Moment:
    import msgspec

    decisions = tuple(_decision(it) for it in found["decisions"])
    moment = msgspec.convert({**found, "decisions": []}, Moment)
    return msgspec.structs.replace(moment, decisions=decisions)


def _decision(found: Any) -> Decision:
    """Convert a decision; the values of knobs are sent as text."""
    import msgspec

    decision = msgspec.convert(found, Decision)
    knobs = {
        name: int(value) if str(value).lstrip("-").isdecimal() else value
        for name, value in decision.knobs.items()
    }
    return msgspec.structs.replace(decision, knobs=knobs)
