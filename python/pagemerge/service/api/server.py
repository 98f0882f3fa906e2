"""Listens for callers of the API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux import sockets
from pagemerge.service.api.accounts import Accounts
from pagemerge.service.api.answers import Answers, History
from pagemerge.service.api.connection import Connection
from pagemerge.service.api.control import Control
from pagemerge.service.api.moments import Moments
from pagemerge.watch.model import Moment

log = logging.getLogger("pagemerge.api")

SWEEP = 1.0
"""Seconds between two searches for connections that are late."""
BACKLOG = 1024
"""Connections that may wait to be accepted."""
LONGEST_PATH = 107
"""Bytes of the path of a socket (unix(7))."""


class Server:
    """What the connections share."""

    def __init__(
        self, source: Callable[[], Moment], control: Control, history: History | None
    ) -> None:
        self.accounts = Accounts(os.geteuid())
        self.answers = Answers(Moments(source), control, history, self.accounts)
        self.connections: set[Connection] = set()

    async def run(self, listener: socket.socket, listening: Callable[[], object]) -> None:
        """Serve callers until this coroutine is cancelled."""
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(
            lambda: Connection(self), sock=listener, backlog=BACKLOG
        )
        listening()
        try:
            while True:
                await asyncio.sleep(SWEEP)
                now = loop.time()
                for connection in [it for it in self.connections if it.is_late(now)]:
                    connection.close("it has gone, or takes too long")
        finally:
            server.close()
            for connection in list(self.connections):
                connection.close("the service ends")


async def serve(
    path: Path | socket.socket,
    source: Callable[[], Moment],
    control: Control,
    history: History | None = None,
    listening: Callable[[], object] = lambda: None,
) -> None:
    """Serve the API until this coroutine is cancelled.

    ``path``: where to listen, or a socket that listens already (socket activation). ``source`` is
    called in one thread at a time, ``history`` in one for root and the owner and in one for other
    users. ``listening`` is called once callers can connect. Raises ``PagemergeError`` if the
    service cannot listen there.
    """
    server = Server(source, control, history)
    if isinstance(path, socket.socket):
        path.setblocking(False)
        await server.run(path, listening)
        return
    with place(path), contextlib.closing(sockets.bind(path)) as listener:
        try:
            await server.run(listener, listening)
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def place(path: Path) -> Iterator[None]:
    """Hold the lock of the socket at ``path``, after making and checking its folder.

    Raises ``PagemergeError`` if another service holds the lock, or if other users could replace the
    socket.
    """
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise PagemergeError(
            f"{path} has more than {LONGEST_PATH} bytes: choose a shorter path", path=str(path)
        )
    try:
        if sockets.make_folder(path):  # before the lock, which would stay in the folder of another
            raise PagemergeError(
                f"other users can write to {path.parent}: choose a folder of your own",
                path=str(path),
            )
        lock = sockets.lock_beside(path)
    except BlockingIOError:
        raise PagemergeError(
            f"a service is running at {path} already: end it, or give this one another path",
            path=str(path),
        ) from None
    except OSError as error:
        raise PagemergeError(
            f"the API cannot listen at {path}: {error.strerror}; choose a folder that belongs to "
            "you",
            path=str(path),
        ) from error
    try:
        yield
    finally:
        os.close(lock)
