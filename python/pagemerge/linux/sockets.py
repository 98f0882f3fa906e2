"""A Unix socket at a path that one program listens at: its folder, its lock, and who may connect.

The kernel tells a service of root who connects (SO_PEERCRED, unix(7)), so all users may connect.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path


def make_folder(path: Path) -> bool:
    """Make the folder of ``path``; returns whether other users could replace what lies in it.

    Raises ``OSError``.
    """
    folder = path.parent
    folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    found = folder.stat()
    is_open = found.st_mode & 0o022 and not found.st_mode & 0o1000
    return bool(is_open) or found.st_uid not in (0, os.geteuid())


def lock_beside(path: Path) -> int:
    """Take the lock of the socket at ``path``; returns its descriptor, which holds the lock.

    A process that inherits it holds the lock, too. Raises ``BlockingIOError`` if another process
    holds it, and ``OSError``.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock


def bind(path: Path) -> socket.socket:
    """Return a socket that is bound to ``path``; the caller holds the lock. Raises ``OSError``."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        server.bind(str(path))
        path.chmod(0o666 if os.geteuid() == 0 else 0o600)
    except BaseException:
        server.close()
        raise
    return server
