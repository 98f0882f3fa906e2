"""What is left of processes, descriptors, slots and memory, as the kernel tells it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from pagemerge import _core

PROC = Path("/proc")


def adopt_orphans() -> None:
    """Become the parent of every process that ours leave behind (PR_SET_CHILD_SUBREAPER)."""
    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def reap(known: set[int]) -> None:
    """Take notice of adopted processes that have ended; ``known`` have somebody who does."""
    for pid, stat in _stats().items():
        if stat.parent == os.getpid() and stat.state == "Z" and pid not in known:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def descendants() -> dict[int, str]:
    """Pid -> name of every process that comes from this one and has not ended."""
    stats = _stats()
    found, parents = dict[int, str](), {os.getpid()}
    while parents:
        children = {pid for pid, stat in stats.items() if stat.parent in parents}
        found.update({pid: stats[pid].name for pid in children if stats[pid].state != "Z"})
        parents = children
    return found


def stands_still(pid: int) -> bool:
    """Have all threads of a process been stopped by a signal?"""
    with contextlib.suppress(OSError):
        tasks = list((PROC / str(pid) / "task").iterdir())
        return all(stat is not None and stat.state == "T" for stat in map(_stat, tasks))
    return False


def slab_mappings(pid: int) -> int:
    """Mappings of slabs in a process."""
    try:
        return (PROC / str(pid) / "maps").read_text().count(_core.SLAB_NAME)
    except OSError:
        return 0


def descriptors(pid: int) -> tuple[int, int]:
    """Open descriptors of a process: those of slabs, and the others."""
    slabs = others = 0
    with contextlib.suppress(OSError):
        for link in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                is_slab = _core.SLAB_NAME in str(link.readlink())
                slabs, others = slabs + is_slab, others + (not is_slab)
    return slabs, others


def resident_bytes(pid: int) -> int:
    """Memory of a process without what it shares (RssAnon); 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True)
class Host:
    """Memory of the whole host, in bytes."""

    available: int
    """MemAvailable."""
    shared: int
    """Shmem: memfds, and with them slabs."""
    unowned: int
    """In use and no process's own: what somebody else's programs take does not count."""


def host() -> Host:
    """As it is now (``/proc/meminfo``)."""
    rows = (line.split() for line in (PROC / "meminfo").read_text().splitlines())
    field = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}
    available = field["MemAvailable"]
    unowned = field["MemTotal"] - available - field["AnonPages"] - field["PageTables"]
    return Host(available, field["Shmem"], unowned)


@dataclass(frozen=True, slots=True)
class _Stat:
    name: str
    state: str
    parent: int


def _stat(task: Path) -> _Stat | None:
    try:
        text = (task / "stat").read_text(errors="replace")
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return _Stat(head.partition("(")[2], fields[0], int(fields[1]))


def _stats() -> dict[int, _Stat]:
    every = ((int(it.name), _stat(it)) for it in PROC.iterdir() if it.name.isdigit())
    return {pid: stat for pid, stat in every if stat is not None}
