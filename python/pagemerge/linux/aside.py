"""Calls functions that look at other processes, in a process of our own that can be left behind.

A process can make everybody who looks at it wait for ever. It maps a file of a file system of its
own (FUSE) over its memory, and does not answer: not even SIGKILL ends such a wait
(``request_wait_answer`` in Linux fs/fuse/dev.c). It can also hold its own memory's lock meanwhile,
for which most files of ``/proc/PID`` wait, or stay inside execve(2), for which ``stat``, ``ns`` and
``maps`` wait; only ``status``, ``statm``, ``comm`` and ``cgroup`` can be read without that. A
process does not end while one of its threads waits, so that threads do not help. Therefore a
*reader*, another process, looks; one that does not answer in time is left behind, and the next call
gets a new one.

A question is a function of a module and its arguments; both and the answer are pickled.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pagemerge.errors import PagemergeError, of_process
from pagemerge.linux import process, reader
from pagemerge.linux.process import PROC
from pagemerge.linux.reader import ROOM, Question, Reply
from pagemerge.linux.waiting import WHY, Unanswered, Waiting

T = TypeVar("T")

log = logging.getLogger("pagemerge.aside")

PATIENCE = 5.0
"""Seconds for which a reader may only wait, almost without taking processor time."""
WORKING = 0.05
"""Share of a core from which on a reader counts as working."""

AT_ONCE = 64
"""Quick questions that are asked together."""


class _Lost(Exception):
    """There is no reader, and none can be had."""


@dataclass(slots=True)
class _Reader:
    socket: socket.socket
    room: memoryview
    pid: int


class Aside:
    """Readers, one at a time; those left behind are remembered until they end or answer."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.cpu_seconds = 0.0
        """Processor time that readers took; it is not in ``time.process_time``."""
        self._owner = 0
        self._nursery: socket.socket | None = None
        self._nurse = 0
        self._reader: _Reader | None = None
        self._waiting = Waiting()

    def start(self) -> None:
        """Fork the nursery, if that has not been done. The earlier, the less it weighs."""
        if self._nursery and self._owner == os.getpid():
            return
        # What a process that forked us has asked and left is its own.
        self._reader, self._waiting, self._owner = None, Waiting(), os.getpid()
        ours, theirs = socket.socketpair()
        self._nurse = os.fork()
        if self._nurse == 0:
            try:
                reader.nurse(theirs)
            finally:
                os._exit(1)
        theirs.close()
        self._nursery = ours
        atexit.register(self.close)

    @property
    def pids(self) -> set[int]:
        """Our own processes: the nursery and all readers."""
        ours = {self._nurse, *self._waiting.readers}
        return (ours | {self._reader.pid if self._reader else 0}) - {0}

    @property
    def room(self) -> memoryview:
        """The memory that the function called last shared with us (``reader.room``)."""
        assert self._reader
        return self._reader.room

    def spent_seconds(self) -> float:
        """Return the processor time that this process and its readers have taken."""
        return time.process_time() + self.cpu_seconds

    def call(self, pid: int, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that looks at process ``pid``.

        Raises what it raises, and ``Unanswered`` if it waits for too long.
        """
        (found,) = self.each(function, [pid], [arguments])
        if isinstance(found, Exception):
            raise found
        return found

    def quick(
        self,
        function: Callable[..., T],
        pids: Sequence[int],
        arguments: Sequence[tuple[Any, ...]] | None = None,
    ) -> list[T | PagemergeError]:
        """Do the same as ``each`` for calls of some microseconds: many are one question.

        If one of those does not return, they are asked one by one.
        """
        found: dict[int, T | PagemergeError] = {}
        given = [(pid,) for pid in pids] if arguments is None else arguments
        free = [at for at in range(len(pids)) if not self._waiting.refusal(pids[at])]
        for start in range(0, len(free), AT_ONCE):
            some = free[start : start + AT_ONCE]
            question = function, [pids[at] for at in some], [given[at] for at in some]
            (told,) = self._ask(_several, [0], (question,))
            if not isinstance(told, PagemergeError):
                found.update(zip(some, told, strict=True))
        left = [at for at in range(len(pids)) if at not in found]
        each = self.each(function, [pids[at] for at in left], [given[at] for at in left])
        found.update(zip(left, each, strict=True))
        return [found[at] for at in range(len(pids))]

    def each(
        self,
        function: Callable[..., T],
        pids: Sequence[int],
        arguments: Sequence[tuple[Any, ...]] | None = None,
    ) -> Iterator[T | PagemergeError]:
        """Call a function for each of some processes, with its pid or with the arguments for it.

        Yields what it returns; for a process for which it raises ``PagemergeError`` or
        ``OSError``, or waits for too long, a ``PagemergeError``.
        """
        arguments = [(pid,) for pid in pids] if arguments is None else arguments
        done = 0
        while done < len(pids):
            if why := self._waiting.refusal(pids[done]):
                yield why
                done += 1
                continue
            refused = (at for at in range(done + 1, len(pids)) if self._waiting.refusal(pids[at]))
            end = next(refused, len(pids))
            for found in self._ask(function, pids[done:end], tuple(arguments[done:end])):
                yield found
                done += 1

    def _ask(
        self,
        function: Callable[..., T],
        pids: Sequence[int],
        arguments: tuple[tuple[Any, ...], ...],
    ) -> Iterator[T | PagemergeError]:
        """Ask a reader about some processes; ends early after one that does not answer, and before
        one that is not to be asked any more."""
        at, seconds = 0, self.patience
        try:
            asked = self._reader = self._reader or self._new()
            spent = _cpu_seconds(asked.pid)
            reader.send(asked.socket, Question(function, arguments))
            while at < len(pids):
                seconds = self._waiting.seconds(pids[at], self.patience)
                reply = self._awaited(asked, spent, seconds, pids[at])
                spent += reply.cpu_seconds
                self.cpu_seconds += reply.cpu_seconds
                at += 1
                yield _found(reply, pids[at - 1])
                if at < len(pids) and self._waiting.refusal(pids[at]):
                    return
        except TimeoutError:
            if self._reader:
                self._waiting.leave(self._reader.socket, self._reader.pid, pids[at])
                self._reader = None
            why = f"it did not let us look at it for {seconds:g} s: {WHY}"
            if pids[at]:
                log.info("process %d: %s", pids[at], why)
            yield Unanswered(why, pid=pids[at])
        except (EOFError, ConnectionError, _Lost):
            yield PagemergeError("our process that looks at others has ended", pid=pids[at])
        finally:
            if at < len(pids) and self._reader:  # it would answer what nobody waits for
                self._reader.socket.close()
                self._reader = None

    def _awaited(self, asked: _Reader, spent: float, seconds: float, pid: int) -> Reply:
        """Wait for a reply about process ``pid`` for as long as the reader works.

        ``spent``: processor time that the reader had taken before. Raises ``TimeoutError`` if it
        only waited for some seconds, and ``EOFError`` if it ended.
        """
        asked.socket.settimeout(seconds)
        began = time.monotonic()
        while True:
            try:
                reply: Reply = reader.receive(asked.socket)
            except TimeoutError:
                now = _cpu_seconds(asked.pid)
                if now - spent < WORKING * seconds:
                    raise
                spent = now
            else:
                self._waiting.note(pid, time.monotonic() - began - reply.cpu_seconds)
                return reply

    def _new(self) -> _Reader:
        """Have a reader forked. Raises ``_Lost`` if that is impossible."""
        try:
            try:
                return self._forked()
            except (BrokenPipeError, EOFError):  # somebody ended the nursery
                self.close()
                return self._forked()
        except (OSError, EOFError) as error:
            raise _Lost from error

    def _forked(self) -> _Reader:
        self.start()
        assert self._nursery
        memory = os.memfd_create("readers-room", os.MFD_CLOEXEC)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                os.ftruncate(memory, ROOM)
                socket.send_fds(self._nursery, [b"!"], [theirs.fileno(), memory])
                room = memoryview(mmap.mmap(memory, ROOM))
            ours.settimeout(self.patience)
            return _Reader(ours, room, reader.receive(ours))
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(memory)

    def close(self) -> None:
        """Let go of all readers; the next call starts anew."""
        atexit.unregister(self.close)
        self._waiting.close()
        if self._reader:
            self._reader.socket.close()
        if self._nursery:
            self._nursery.close()
            if self._owner == os.getpid():
                os.waitpid(self._nurse, 0)
        self._reader, self._nursery, self._nurse = None, None, 0


def _several(
    function: Callable[..., Any], pids: list[int], arguments: list[tuple[Any, ...]]
) -> list[Any]:
    """In a reader: call a function for each of some processes."""
    found: list[Any] = []
    for pid, given in zip(pids, arguments, strict=True):
        try:
            found.append(function(*given))
        except PagemergeError as error:
            found.append(error)
        except OSError as error:
            found.append(of_process(error, pid, error.filename or f"{PROC}/{pid}"))
    return found


def _cpu_seconds(pid: int) -> float:
    with contextlib.suppress(PagemergeError):
        return process.stat(pid).cpu_seconds
    return 0.0


def _found(reply: Reply, pid: int) -> Any:
    """Return what a call returned, or its error about process ``pid``; raises faults of ours."""
    error = reply.error
    if error is None or isinstance(error, PagemergeError):
        return reply.value if error is None else error
    if isinstance(error, OSError):
        return of_process(error, pid, error.filename or f"{PROC}/{pid}")
    raise error


readers = Aside()
"""The readers of this process."""

# A child that is forked without exec must not keep its parent's readers alive.
os.register_at_fork(after_in_child=readers.close)
