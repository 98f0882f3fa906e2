"""Whose memory: processes by number, by name, or all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import AccessDenied, NoSuchProcess, PagemergeError

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was found; it may have gone since."""

    pid: int
    name: str
    """Its comm: at most 15 bytes, and what ps(1) shows."""
    uid: int
    """Effective user id: the trust domain of its pages."""


def everyone(proc: Path = PROC) -> list[Process]:
    """All processes but our own, ascending by pid."""
    pids = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())
    return [found for pid in pids if pid != os.getpid() and (found := _look(pid, proc))]


def named(words: Iterable[str], proc: Path = PROC) -> list[Process]:
    """The processes that ``words`` name, each once: a word is a pid, a comm, or the base name of
    argv[0]. Our own process has to be named by its pid.

    Raises ``NoSuchProcess`` for a word that fits none.
    """
    chosen: dict[int, Process] = {}
    for word in words:
        if word.isdecimal():
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
    """What to tell people about ``error`` with ``process``: the cause and, if any, the cure."""
    # Nobody may look at a process that waits for its parent to take note of its end.
    if isinstance(error, NoSuchProcess) or _has_ended(process.pid):
        return "it has exited"
    if not isinstance(error, AccessDenied):
        return str(error)
    if os.geteuid() == 0:
        return "the kernel denies it even to this root: CAP_SYS_PTRACE is missing (a container?)"
    if process.uid != os.geteuid():
        return f"it belongs to uid {process.uid}: run as that user or as root"
    return (
        "the kernel does not let others of its user look at it (set-id or undumpable program, or "
        "kernel.yama.ptrace_scope, see ptrace(2)): run as root"
    )


def _has_ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def _by_name(word: str, proc: Path) -> Iterator[Process]:
    for process in everyone(proc):
        if word in (process.name, _program(process.pid, proc)):
            yield process


def _look(pid: int, proc: Path) -> Process | None:
    """The process ``pid``; of a thread's number, the process it belongs to."""
    try:
        text = (proc / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return None  # Gone between listing and reading.
    fields = dict(line.split(":\t", 1) for line in text.split("\n") if ":\t" in line)
    return Process(int(fields["Tgid"]), fields["Name"], int(fields["Uid"].split()[1]))


def _program(pid: int, proc: Path) -> str:
    """The base name of argv[0]; empty if it has none or may not be read."""
    try:
        line = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return os.path.basename(os.fsdecode(line.split(b"\0", 1)[0]))  # noqa: PTH119
