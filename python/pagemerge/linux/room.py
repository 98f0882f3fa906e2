"""How much memory is left for more processes: of the host, and of a process's memory cgroup.

Sources: proc_meminfo(5), cgroup-v1/memory.rst and cgroup-v2.rst of Linux. Swap does not count: what
is swapped has to come back when it is used. Every reader takes the root of the file system it
reads, so that a folder can stand in for the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux import cgroup
from pagemerge.linux.accounts import CGROUPS, available_bytes, memory_cgroups, total_bytes
from pagemerge.linux.process import PROC
from pagemerge.linux.values import contents, number, number_in, pairs

_LIMITS = {1: ("memory.limit_in_bytes",), 2: ("memory.max", "memory.high")}
"""Version -> files of limits. Above memory.high the kernel makes the processes reclaim memory at
each allocation, so a group that has reached it is full."""

_USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}

_CACHE = {
    1: (b"total_active_file", b"total_inactive_file"),
    2: (b"active_file", b"inactive_file"),
}
"""Version -> lines of memory.stat, which add up to the page cache of the group and those below."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit of one memory cgroup, and what the group uses of it."""

    path: bytes
    """Path in its hierarchy, without slashes around it; print it through ``text.plain`` only."""
    file: str
    """Name of the file that holds the limit."""
    limit_bytes: int
    used_bytes: int
    """Charged to the group, page cache included."""
    cache_bytes: int
    """Page cache in ``used_bytes``, which the kernel gives up when the group needs memory."""

    @property
    def left_bytes(self) -> int:
        """What the group can still take."""
        return max(self.limit_bytes - self.used_bytes + self.cache_bytes, 0)


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that is left for more processes like one."""

    available_bytes: int
    """Of the host: ``accounts.available_bytes``."""
    limit: Limit | None = None
    """Of the process's memory cgroup and its ancestors, the one with least left; None if no limit
    leaves less than the host."""

    @property
    def left_bytes(self) -> int:
        """The lower of the two."""
        return self.available_bytes if self.limit is None else self.limit.left_bytes


def room(pid: int | None, *, proc: Path = PROC, cgroups: Path = CGROUPS) -> Room:
    """Find how much memory is left for processes in the memory cgroup of process ``pid``.

    None: only the host counts. Raises ``NoSuchProcess`` or ``AccessDenied``, and ``Unsupported`` on
    a kernel that does not say what is available (before Linux 3.14).
    """
    available = available_bytes(proc=proc)
    if available is None:
        raise Unsupported(
            f"{proc}/meminfo has no line MemAvailable: update Linux (3.14 or later has it)",
            path=str(proc / "meminfo"),
        )
    if pid is None:
        return Room(available)
    everything = total_bytes(proc=proc)
    found = (
        it for it in _limits(cgroup.entries(pid, proc), cgroups) if it.limit_bytes < everything
    )
    least = min(found, key=lambda limit: limit.left_bytes, default=None)
    return Room(available, least if least and least.left_bytes < available else None)


def inside(pid: int, limit: Limit, *, proc: Path = PROC) -> bool:
    """Is the memory of process ``pid`` charged below ``limit``? False if the process has ended."""
    try:
        entries = cgroup.entries(pid, proc)
    except PagemergeError:
        return False
    paths = [path for _, path, _ in memory_cgroups(entries, CGROUPS)]
    return any((path + b"/").startswith(limit.path + b"/" * bool(limit.path)) for path in paths)


def _limits(entries: list[cgroup.Entry], cgroups: Path) -> Iterator[Limit]:
    """Read the limits of a cgroup and of its ancestors.

    A container often sees its own cgroup mounted as the root, while its path is still the host's:
    then only the root is there.
    """
    for mount, path, version in memory_cgroups(entries, cgroups):
        parts = path.split(b"/") if path else []
        for depth in range(len(parts), -1, -1):
            above = b"/".join(parts[:depth])
            folder = mount + b"/" + above if above else mount
            used = number_in(folder + b"/" + os.fsencode(_USAGE[version]))
            if used is None:
                continue
            for file in _LIMITS[version]:
                limit = number_in(folder + b"/" + os.fsencode(file))
                if limit is not None:  # the file exists, and does not say "max"
                    yield Limit(above, file, limit, used, _cache(folder, version))


def _cache(folder: bytes, version: int) -> int:
    stat = pairs(contents(folder + b"/memory.stat") or b"", b" ")
    return sum(number(stat.get(name)) or 0 for name in _CACHE[version])
