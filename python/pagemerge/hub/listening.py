"""The socket of a hub, and the lock that keeps a second hub away from it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pagemerge.errors import HubError, UsageError

BACKLOG = 128
"""Connections that may wait for the hub to accept them."""


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[int]:
    """Hold the lock of the socket at ``path``, after making and checking the directory of ``path``.

    Yields the descriptor of the lock. A process that inherits it holds the lock, too.

    Raises ``HubError`` if another hub holds the lock, or if other users could replace the socket.
    """
    parent = path.parent
    parent.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    owner = parent.stat()
    if owner.st_uid not in (0, os.geteuid()) or (
        owner.st_mode & 0o022 and not owner.st_mode & 0o1000
    ):
        raise HubError(f"other users can write to {parent}: choose a directory of your own")
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
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
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - a path of bytes limits, not of a tree
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    server.bind(path)
    os.chmod(path, 0o666 if os.geteuid() == 0 else 0o600)  # noqa: PTH101
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
