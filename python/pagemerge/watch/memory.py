"""Memory and processor time as the kernel accounts them, read once when asked for.

Sources: proc(5), ``Documentation/filesystems/proc.rst`` (smaps), cgroup-v1/memory.rst and
cgroup-v2.rst of Linux. Every reader takes the root of the file system it reads, so that a folder
can stand in for the kernel. Whatever a host may lack is ``None``, not an error.

``smaps`` and ``smaps_rollup`` walk all page tables of a process under its mm lock: read them
before and after a piece of work, never in a loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import about_process
from pagemerge.model import PAGE_SIZE

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
KSM = Path("/sys/kernel/mm/ksm")

SLAB_NAME = b"/memfd:pagemerge-slab (deleted)"
"""How the kernel names a mapping of one of our slabs (memfd_create(2): they are never linked)."""


@dataclass(frozen=True, slots=True)
class Resident:
    """What a process has in memory; all in bytes."""

    rss_bytes: int
    """Pages it maps, each counted in full."""
    pss_bytes: int
    """The same, each page divided by the number of processes that map it."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process has in memory, mappings of slabs kept apart."""

    total: Resident
    slabs: Resident
    """The part that maps stable pages."""

    @property
    def own_pss_bytes(self) -> int:
        """PSS without the slabs: add the size of the store once, and nothing counts twice."""
        return self.total.pss_bytes - self.slabs.pss_bytes


def resident(pid: int, *, proc: Path = PROC) -> Resident:
    """RSS and PSS of process ``pid``, summed by the kernel (``smaps_rollup``).

    Raises ``NoSuchProcess`` or ``AccessDenied``.
    """
    path = proc / str(pid) / "smaps_rollup"
    with about_process(pid, path):
        return _total(path, only=None)[0]


def footprint(pid: int, *, proc: Path = PROC) -> Footprint:
    """RSS and PSS of process ``pid``, summed by mapping (``smaps``).

    Raises ``NoSuchProcess`` or ``AccessDenied``.
    """
    path = proc / str(pid) / "smaps"
    with about_process(pid, path):
        total, slabs = _total(path, only=SLAB_NAME)
        return Footprint(total, slabs)


def cpu_seconds(pid: int, *, proc: Path = PROC) -> float:
    """Processor time that process ``pid`` has used, user and system, in seconds.

    Fields utime and stime of ``/proc/PID/stat``, all threads together. Raises ``NoSuchProcess``
    or ``AccessDenied``.
    """
    path = proc / str(pid) / "stat"
    with about_process(pid, path):
        # The name in the second field may itself hold spaces and brackets.
        fields = path.read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def available_bytes(*, proc: Path = PROC) -> int | None:
    """Memory of the host that is there for the taking, in bytes.

    MemAvailable of ``/proc/meminfo``, and the free pages on the lists of each processor, which it
    leaves out: since Linux 6.7 (``pcp->high`` tunes itself) hundreds of MB that were just freed
    may lie there for seconds.
    """
    for line in (proc / "meminfo").read_bytes().splitlines():
        if line.startswith(b"MemAvailable:"):
            return _kilobytes(line) + _listed_pages(proc) * PAGE_SIZE
    return None


def total_bytes(*, proc: Path = PROC) -> int:
    """Memory of the host, in bytes (MemTotal of ``/proc/meminfo``)."""
    for line in (proc / "meminfo").read_bytes().splitlines():
        if line.startswith(b"MemTotal:"):
            return _kilobytes(line)
    return 0


def pressure_percent(*, proc: Path = PROC) -> float | None:
    """Percent of the last ten seconds in which something waited for memory; ``None`` without PSI.

    Field avg10 of the line "some" in ``/proc/pressure/memory``
    (Documentation/accounting/psi.rst of Linux).
    """
    with suppress(OSError):
        for line in (proc / "pressure" / "memory").read_text().splitlines():
            if line.startswith("some "):
                return float(line.split()[1].removeprefix("avg10="))
    return None


def anonymous_bytes(pid: int, *, proc: Path = PROC) -> int:
    """Anonymous memory that process ``pid`` has, in bytes; 0 if it has gone.

    Fields resident and shared of ``/proc/PID/statm``: costs microseconds, whatever its size.
    """
    with suppress(OSError, IndexError):
        fields = (proc / str(pid) / "statm").read_bytes().split()
        return PAGE_SIZE * max(int(fields[1]) - int(fields[2]), 0)
    return 0


def cgroup_bytes(pid: int, *, proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Memory charged to the memory cgroup of process ``pid``, in bytes; page cache included.

    ``memory.current`` (v2) or ``memory.usage_in_bytes`` (v1); ``None`` where neither is there.
    Raises ``NoSuchProcess`` or ``AccessDenied``.
    """
    path = proc / str(pid) / "cgroup"
    with about_process(pid, path):
        entries = path.read_text().splitlines()
    for file in _usage_files(entries, cgroups):
        try:
            return int(file.read_text())
        except OSError:
            continue
    return None


def cgroup_limit_bytes(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Most memory that may be charged to this process's memory cgroup, in bytes; None: no limit.

    The least of it and its ancestors: ``memory.max`` (v2) or ``memory.limit_in_bytes`` (v1), where
    "no limit" is a number beyond all memory.
    """
    found = []
    try:
        entries = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    for mount, path, version in _memory_cgroups(entries, cgroups):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        folder = mount / path
        for at in (folder, *folder.parents):
            with suppress(OSError, ValueError):  # not there, or "max"
                found.append(int((at / name).read_text()))
            if at == mount:
                break
    least = min(found, default=None)
    everything = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    return least if least is not None and least < everything else None


def ksm_run(*, ksm: Path = KSM) -> int | None:
    """State of the kernel's own merging: 0 stopped, 1 running, 2 undone; ``None`` without KSM."""
    try:
        return int((ksm / "run").read_text())
    except OSError:
        return None


def _listed_pages(proc: Path) -> int:
    """Free pages on the lists of all processors: ``count`` of each pageset in ``zoneinfo``."""
    try:
        zones = (proc / "zoneinfo").read_bytes()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in zones.splitlines() if b" count: " in line)


def _usage_files(entries: list[str], cgroups: Path) -> Iterator[Path]:
    """Where the usage of the cgroup in ``entries`` (``/proc/PID/cgroup``) may be read, best first.

    A host may mount both versions; only one of them has the memory controller. A container often
    sees its own cgroup mounted as the root, under a path that still names the host's.
    """
    for mount, path, version in _memory_cgroups(entries, cgroups):
        name = "memory.current" if version == 2 else "memory.usage_in_bytes"
        yield mount / path / name
        yield mount / name


def _memory_cgroups(entries: list[str], cgroups: Path) -> Iterator[tuple[Path, str, int]]:
    """The mount, path in it and version of each hierarchy that may have the memory controller."""
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        if "memory" in controllers.split(","):
            yield cgroups / "memory", path.lstrip("/"), 1
        elif not controllers:
            yield cgroups, path.lstrip("/"), 2


def _total(path: Path, only: bytes | None) -> tuple[Resident, Resident]:
    """Sums over the mappings in ``path``: of all, and of those that are named ``only``."""
    rss = pss = only_rss = only_pss = 0
    wanted = False
    with path.open("rb") as lines:
        for line in lines:
            if line.startswith(b"Rss:"):
                size = _kilobytes(line)
                rss += size
                only_rss += size if wanted else 0
            elif line.startswith(b"Pss:"):
                size = _kilobytes(line)
                pss += size
                only_pss += size if wanted else 0
            elif line[:1] in b"0123456789abcdef":
                # Field names start with capitals, a mapping's line with its address.
                wanted = only is not None and line.rstrip(b"\n").endswith(b" " + only)
    return Resident(rss, pss), Resident(only_rss, only_pss)


def _kilobytes(line: bytes) -> int:
    """The bytes in a line such as ``Pss:    12 kB``."""
    return int(line.split()[1]) * 1024
