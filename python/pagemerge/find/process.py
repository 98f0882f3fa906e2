"""Selects processes by pid, by name, or all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import AccessDenied, NoSuchProcess, PagemergeError
from pagemerge.linux import process as linux
from pagemerge.linux.aside import readers
from pagemerge.linux.process import PROC
from pagemerge.linux.text import decoded
from pagemerge.linux.waiting import Unanswered

TO_READ = {"CAP_DAC_READ_SEARCH": 1 << 2 | 1 << 1, "CAP_SYS_PTRACE": 1 << 19}
"""Capability that root needs to read any process -> the bits of which one is enough
(capabilities(7)): for files of other users CAP_DAC_OVERRIDE is enough, too."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was found; it may have ended since."""

    pid: int
    name: str
    """Its comm: at most 15 bytes that the process chooses; print it through ``text.plain`` only."""
    uid: int
    """Effective user id: the trust domain of its pages."""


def everyone(proc: Path = PROC) -> list[Process]:
    """List all processes except this one, ascending by pid."""
    ours = {os.getpid(), *readers.pids}
    found = (_look(pid, proc) for pid in linux.pids(proc) if pid not in ours)
    return [process for process in found if process]


def named(words: Iterable[str], proc: Path = PROC) -> list[Process]:
    """Find the processes that ``words`` name, each once.

    A word is a pid, a comm, or the base name of argv[0]. This process itself is found only by its
    pid. Raises ``NoSuchProcess`` for a word that matches no process.
    """
    chosen: dict[int, Process] = {}
    for word in words:
        if word.isascii() and word.isdecimal() and len(word) < 12:
            found = [process] if (process := _look(int(word), proc)) else []
            what, pid = f"no process has the pid {word}", int(word)
        else:
            found = list(_by_name(word, proc))
            what, pid = f"no process is named {word!r}", None
        if not found:
            raise NoSuchProcess(f"{what}; `ps -e` lists pids and names", pid=pid)
        chosen.update((process.pid, process) for process in found)
    return list(chosen.values())


def explain(error: PagemergeError, process: Process) -> str:
    """Explain ``error`` with ``process`` to the user: the cause and, if there is one, the cure."""
    # The kernel denies access to a process that has ended and that its parent has not waited for.
    if isinstance(error, Unanswered):
        return str(error)
    if isinstance(error, NoSuchProcess) or _has_ended(process.pid):
        return "it has exited"
    if not isinstance(error, AccessDenied):
        return str(error)
    if os.geteuid() == 0:
        return f"the kernel denies it even to this root: {_lack()}"
    if process.uid != os.geteuid():
        return f"it belongs to uid {process.uid}: run as that user or as root"
    return (
        "the kernel does not let other processes of its user look at it (set-id or undumpable "
        "program, or kernel.yama.ptrace_scope, see ptrace(2)): run as root"
    )


def _lack() -> str:
    """Say why root may not look at a process. Source: proc(5), ptrace(2)."""
    held = linux.status(os.getpid()).capabilities
    lacks = [name for name, bits in TO_READ.items() if not held & bits]
    if lacks:
        return f"{' and '.join(lacks)} {'is' if len(lacks) == 1 else 'are'} missing (a container?)"
    return "a security module forbids it, or it belongs to a user namespace outside this one"


def _has_ended(pid: int) -> bool:
    try:
        return readers.call(pid, linux.stat, pid).has_ended
    except Unanswered:
        return False
    except PagemergeError:
        return True


def _by_name(word: str, proc: Path) -> Iterator[Process]:
    # Python decodes arguments by the locale; names are always decoded as UTF-8.
    word = decoded(os.fsencode(word))
    found = everyone(proc)
    pids = [process.pid for process in found]
    programs = readers.quick(_program, pids, [(pid, proc) for pid in pids])
    for process, program in zip(found, programs, strict=True):
        if word in (process.name, program):
            yield process


def _look(pid: int, proc: Path) -> Process | None:
    """Read the process ``pid``; for the id of a thread, the process that it belongs to."""
    try:
        found = linux.status(pid, proc)
    except PagemergeError:
        return None  # It ended between listing and reading.
    return Process(found.pid, found.name, found.uid)


def _program(pid: int, proc: Path) -> str:
    """Return the base name of argv[0]; empty if there is none or it may not be read."""
    try:
        return linux.arguments(pid, proc)[0].rpartition("/")[2]
    except PagemergeError:
        return ""
