"""Memory and processor time as the kernel accounts them; each call reads them once.

Sources: proc(5), ``Documentation/filesystems/proc.rst`` (smaps), cgroup-v1/memory.rst and
cgroup-v2.rst of Linux. Every reader takes the root of the file system it reads, so that a folder
can stand in for the kernel. A figure that a host may lack is ``None``, not an error.

``smaps`` and ``smaps_rollup`` walk all page tables of a process under its mm lock: read them
before and after a piece of work, never in a loop.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux import cgroup
from pagemerge.linux import process as linux
from pagemerge.linux.process import PROC
from pagemerge.linux.smaps import sums
from pagemerge.linux.text import lines
from pagemerge.linux.values import contents, number, number_in, pairs
from pagemerge.model import PAGE_SIZE

CGROUPS = Path("/sys/fs/cgroup")
KSM = Path("/sys/kernel/mm/ksm")


@dataclass(frozen=True, slots=True)
class Resident:
    """Memory that a process has resident; all in bytes."""

    rss_bytes: int
    """Pages it maps, each counted in full."""
    pss_bytes: int
    """The same, each page divided by the number of processes that map it."""
    anonymous_pss_bytes: int
    """The part of ``pss_bytes`` that is of no file: not libraries, and not slabs. Unlike PSS it
    does not change when another process that maps the same files ends."""
    swapped_pss_bytes: int
    """Anonymous memory that is swapped out, divided in the same way."""


def resident(pid: int, *, proc: Path = PROC) -> Resident:
    """Read the resident memory of process ``pid``, summed by the kernel (``smaps_rollup``).

    Raises ``NoSuchProcess`` or ``AccessDenied``.
    """
    found = sums(pid, (b"Rss", b"Pss", b"Pss_Anon", b"SwapPss"), proc)
    return Resident(
        rss_bytes=found[b"Rss"],
        pss_bytes=found[b"Pss"],
        anonymous_pss_bytes=found[b"Pss_Anon"],
        swapped_pss_bytes=found[b"SwapPss"],
    )


def cpu_seconds(pid: int, *, proc: Path = PROC) -> float:
    """Read the processor time that process ``pid`` has used, user and system, in seconds.

    It is the sum of utime and stime of ``/proc/PID/stat``, for all threads together. Raises
    ``NoSuchProcess`` or ``AccessDenied``.
    """
    return linux.stat(pid, proc).cpu_seconds


def available_bytes(*, proc: Path = PROC) -> int | None:
    """Read how much memory of the host is available, in bytes.

    It is MemAvailable of ``/proc/meminfo`` and the free pages on the lists of each processor.
    MemAvailable leaves those out, and since Linux 6.7 (``pcp->high`` tunes itself) hundreds of MB
    that were just freed may stay on the lists for seconds.
    """
    available = meminfo_bytes(b"MemAvailable", proc=proc)
    return None if available is None else available + _listed_pages(proc) * PAGE_SIZE


def total_bytes(*, proc: Path = PROC) -> int:
    """Read the memory of the host, in bytes (MemTotal of ``/proc/meminfo``); 0 if not known."""
    return meminfo_bytes(b"MemTotal", proc=proc) or 0


def meminfo_bytes(name: bytes, *, proc: Path = PROC) -> int | None:
    """Read the field ``name`` of ``/proc/meminfo``, in bytes; None if there is none."""
    kilobytes = number(pairs(contents(proc / "meminfo") or b"").get(name), b"kB")
    return None if kilobytes is None else kilobytes * 1024


def pressure_percent(*, proc: Path = PROC) -> float | None:
    """Read the percentage of the last ten seconds in which a task waited for memory.

    It is the field avg10 of the line "some" in ``/proc/pressure/memory``
    (Documentation/accounting/psi.rst of Linux); ``None`` without PSI.
    """
    return _waiting(proc / "pressure" / "memory")


def cgroup_pressure_percent(
    pid: int | str, *, proc: Path = PROC, cgroups: Path = CGROUPS
) -> float | None:
    """Read the same of the memory cgroup of process ``pid``: ``memory.pressure`` (v2 only).

    Raises ``NoSuchProcess`` or ``AccessDenied``.
    """
    for mount, path, version in memory_cgroups(cgroup.entries(pid, proc), cgroups):
        if version == 2:
            return _waiting(b"/".join((mount, path, b"memory.pressure")))
    return None


def _waiting(file: Path | bytes) -> float | None:
    for line in lines(contents(file) or b""):
        if found := re.match(rb"some avg10=([0-9]{1,3}(\.[0-9]+)?) ", line):
            return float(found[1])
    return None


def anonymous_bytes(pid: int, *, proc: Path = PROC) -> int:
    """Read the anonymous memory that process ``pid`` has, in bytes; 0 if it has ended.

    The call takes microseconds, for a process of any size.
    """
    try:
        return PAGE_SIZE * linux.private_pages(pid, proc)
    except PagemergeError:
        return 0


def cgroup_bytes(pid: int, *, proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Read the memory charged to the memory cgroup of process ``pid``, in bytes.

    It is ``memory.current`` (v2) or ``memory.usage_in_bytes`` (v1), page cache included; ``None``
    if there is neither file. Raises ``NoSuchProcess`` or ``AccessDenied``.
    """
    for file in _usage_files(cgroup.entries(pid, proc), cgroups):
        if (usage := number_in(file)) is not None:
            return usage
    return None


def cgroup_limit_bytes(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Read the limit of this process's memory cgroup, in bytes; None if there is no limit.

    It is the lowest limit of the cgroup and its ancestors: ``memory.max`` (v2) or
    ``memory.limit_in_bytes`` (v1), where "no limit" is a number larger than all memory.
    """
    found = []
    try:
        entries = cgroup.entries("self", proc)
    except PagemergeError:
        return None
    for mount, path, version in memory_cgroups(entries, cgroups):
        name = b"memory.max" if version == 2 else b"memory.limit_in_bytes"
        parts = path.split(b"/")
        for depth in range(len(parts), -1, -1):
            limit = number_in(b"/".join((mount, *parts[:depth], name)))
            if limit is not None:  # the file exists, and does not say "max"
                found.append(limit)
    least = min(found, default=None)
    everything = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    return least if least is not None and least < everything else None


def ksm_run(*, ksm: Path = KSM) -> int | None:
    """Read the state of kernel KSM: 0 stopped, 1 running, 2 undone; ``None`` without KSM."""
    return number_in(ksm / "run")


def _listed_pages(proc: Path) -> int:
    """Sum the free pages on the lists of all processors: ``count`` of each pageset in zoneinfo."""
    zones = (line.strip() for line in lines(contents(proc / "zoneinfo") or b""))
    counts = (number(line.removeprefix(b"count:")) for line in zones if line[:6] == b"count:")
    return sum(count or 0 for count in counts)


def _usage_files(entries: list[cgroup.Entry], cgroups: Path) -> Iterator[bytes]:
    """List the files that may hold the usage of the cgroup in ``entries``, best first.

    A host may mount both versions; only one of them has the memory controller. A container often
    sees its own cgroup mounted as the root, while its path is still the host's.
    """
    for mount, path, version in memory_cgroups(entries, cgroups):
        name = b"memory.current" if version == 2 else b"memory.usage_in_bytes"
        yield b"/".join((mount, path, name))
        yield b"/".join((mount, name))


def memory_cgroups(
    entries: list[cgroup.Entry], cgroups: Path
) -> Iterator[tuple[bytes, bytes, int]]:
    """List mount, path in it and version of each hierarchy that may have the memory controller."""
    for entry in entries:
        if "memory" in entry.controllers:
            yield os.fsencode(cgroups / "memory"), entry.path.strip(b"/"), 1
        elif not entry.controllers:
            yield os.fsencode(cgroups), entry.path.strip(b"/"), 2
