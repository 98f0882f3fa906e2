"""The other side of ``aside``: processes that read other processes for us.

The *nursery* is forked before this process grows, has one thread, and never looks at any other
process; so it can always fork the next reader. A *reader* does what it is asked, and ends when
nobody is left to ask.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from pagemerge.linux.forked import close_all_but, drop_handlers

ROOM = 2 << 20
"""Bytes that a reader shares with those who ask it: two pieces of ``find.sources``."""

_LENGTH = struct.Struct("=Q")
_asker: Asker | None = None
"""In a reader: who asks it."""


@dataclass(slots=True)
class Asker:
    """In a reader: the socket to whoever asks, and the shared memory for large answers."""

    socket: socket.socket
    room: memoryview


@dataclass(frozen=True, slots=True)
class Question:
    """A function of a module, to be called with each of ``arguments``."""

    function: Callable[..., Any]
    arguments: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call returned or raised."""

    value: Any
    error: Exception | None
    cpu_seconds: float
    """Processor time that the call took."""


def room() -> memoryview | None:
    """Return the memory that this reader shares with whoever asks; None in other processes."""
    return _asker.room if _asker else None


def send(to: socket.socket, message: object) -> None:
    """Send a message whole. Raises ``OSError``."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    to.sendall(_LENGTH.pack(len(data)) + data)


def receive(source: socket.socket) -> Any:
    """Receive a message. Raises ``EOFError`` if the other side has ended, and ``OSError``."""
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    return pickle.loads(_exactly(source, length))  # only our own processes send


def _exactly(source: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = source.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return data


def nurse(control: socket.socket) -> NoReturn:
    """Fork a reader for each socket and shared memory that arrive; ends when ``control`` closes."""
    _leave(control.fileno())
    while True:
        data, received, _, _ = socket.recv_fds(control, 1, 2)
        if not data:
            _bury()
            os._exit(0)
        with contextlib.suppress(OSError):  # no more processes: whoever asks finds it closed
            if os.fork() == 0:
                control.close()
                _serve(*received)
        for one in received:
            os.close(one)


def _bury() -> None:
    """Wait a moment for readers that end as well, for hosts whose init buries nobody."""
    with contextlib.suppress(ChildProcessError):  # there are none left
        for _ in range(20):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            time.sleep(0.005)


def _leave(kept: int) -> None:
    """Keep nothing of the process that forked us but its memory and the descriptor ``kept``.

    A reader may be left behind: it must not hold a pipe open that others wait for, nor be in a
    group or session that a terminal or a shell waits for. It ends by its socket, not by signals: it
    may be needed while whoever asks ends in good order.
    """
    os.setsid()
    drop_handlers()
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ending, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel itself buries readers
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in {0, 1, 2} - {kept}:
        os.dup2(nothing, number)
    close_all_but({0, 1, 2, kept})


def _serve(descriptor: int, memory: int) -> NoReturn:
    """Answer questions until nobody is left to ask."""
    global _asker
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asker = _asker = Asker(socket.socket(fileno=descriptor), memoryview(mmap.mmap(memory, ROOM)))
    os.close(memory)
    with contextlib.suppress(EOFError, OSError):
        send(asker.socket, os.getpid())
        while True:
            question: Question = receive(asker.socket)
            for arguments in question.arguments:
                send(asker.socket, _answer(question.function, arguments))
    os._exit(0)


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Reply:
    began = time.process_time()
    value = error = None
    try:
        value = function(*arguments)
    except Exception as raised:  # whoever asks gets it
        error = raised
    return Reply(value, error, time.process_time() - began)
