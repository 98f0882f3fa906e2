"""What the memory of a group of guests consists of, by who asked for it.

The cgroup counts each page once: anonymous memory, stable pages (shared memory), files, and what
the kernel keeps for it. /proc/PID/smaps of some guests tells whose the anonymous memory is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean

from tests.support.cgroup import Cgroup

from pagemerge.errors import NoSuchProcess
from pagemerge.linux.maps import Mapping
from pagemerge.linux.process import read
from pagemerge.linux.smaps import pieces
from pagemerge.linux.values import number, pairs

SAMPLE = 8
"""Guests that are looked at in detail: one of 26,000 mappings takes a second."""
KINDS = ("guests' memory that is not merged", "translated code", "QEMU's own memory")
TABLES = "page tables"


def of_group(group: Cgroup, pids: Sequence[int], memory_bytes: int) -> dict[str, int]:
    """The bytes charged to ``group``, by part; those of guests are means of some, times all.

    ``memory_bytes``: of a guest.
    """
    some = [
        it for pid in pids[:: -(-len(pids) // SAMPLE) or 1] if (it := of_guest(pid, memory_bytes))
    ]
    parts = {
        name: int(mean(it[name] for it in some) * len(pids)) for name in (*KINDS, TABLES) if some
    }
    tables = parts.pop(TABLES, 0)
    charged = group.charged()
    return {
        **parts,
        "the hub and other programs": charged.anonymous - sum(parts.values()),
        "stable pages": charged.shared,
        "files": charged.files,
        TABLES: tables,
        "mappings and other records of the kernel": charged.kernel - tables,
    }


def of_guest(pid: int, memory_bytes: int) -> Counter[str]:
    """The bytes that one guest has for itself, by part; none if it has ended."""
    try:
        found = pieces(pid)
        tables = number(pairs(read(pid, "status")).get(b"VmPTE"), b"kB") or 0
    except NoSuchProcess:
        return Counter()
    start, end = _longest([it.mapping for it in found], memory_bytes)
    parts = Counter({TABLES: tables * 1024})
    for it in found:
        is_code = "x" in it.mapping.flags
        kind = 0 if start <= it.mapping.start < end else 1 if is_code else 2
        parts[KINDS[kind]] += it.anonymous_bytes
    return parts


def _longest(mappings: Sequence[Mapping], most: int) -> tuple[int, int]:
    """The longest range of writable mappings without a gap, of at most ``most`` bytes.

    That is the memory of a guest, which merging has cut into many mappings.
    """
    longest, start, end = (0, 0), 0, 0
    for it in mappings:
        if it.flags[:3] != "rw-":
            continue
        start = start if it.start == end else it.start
        end = it.end
        if longest[1] - longest[0] < end - start <= most:
            longest = start, end
    return longest
