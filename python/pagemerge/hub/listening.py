"""The socket of a hub, and the lock that keeps a second hub away from it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pagemerge.errors import HubError, UsageError
from pagemerge.linux import sockets

BACKLOG = 128
"""Connections that may wait for the hub to accept them."""


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[int]:
    """Hold the lock of the socket at ``path``, after making and checking the directory of ``path``.

    Yields the descriptor of the lock. A process that inherits it holds the lock, too.

    Raises ``HubError`` if another hub holds the lock, or if other users could replace the socket.
    """
    if sockets.make_folder(path):
        raise HubError(f"other users can write to {path.parent}: choose a directory of your own")
    try:
        lock = sockets.lock_beside(path)
    except BlockingIOError:
        why = (
            "`pagemerge status` shows it, and a hub that programs have started ends after the last "
            "of them; or give the new hub another --socket"
        )
        raise HubError(f"a hub is running at {path} already: {why}", path=str(path)) from None
    try:
        yield lock
    finally:
        os.close(lock)


def listen(path: str) -> socket.socket:
    """Return a listening socket at ``path``; the caller holds the lock, so no other hub listens."""
    server = sockets.bind(Path(path))
    server.listen(BACKLOG)
    return server


def inherited(descriptor: int) -> socket.socket:
    """Return the listening socket that another process has opened for this hub.

    listen(2) again makes this process the one that clients see at the other end (SO_PEERCRED,
    unix(7)): they let that process read their memory. Raises ``UsageError`` if ``descriptor`` is
    not a Unix stream socket with a path.
    """
    server = socket.socket(fileno=descriptor)
    path = server.getsockname() if server.family == socket.AF_UNIX else ""
    if server.type != socket.SOCK_STREAM or not isinstance(path, str) or not path.startswith("/"):
        raise UsageError(
            "the socket that was passed to the hub is no Unix stream socket with a path: write "
            "ListenStream=/run/pagemerge/hub.sock in the socket unit"
        )
    server.setblocking(False)
    server.listen(BACKLOG)
    return server
