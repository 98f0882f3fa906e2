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
from pagemerge.linux.maps import Mapping, parse, read_lines
from pagemerge.linux.process import PROC, read
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
        anonymous = _anonymous(pid)
        tables = number(pairs(read(pid, "status")).get(b"VmPTE"), b"kB") or 0
    except NoSuchProcess:
        return Counter()
    start, end = _longest([it for it, _ in anonymous], memory_bytes)
    found = Counter({TABLES: tables * 1024})
    for mapping, size in anonymous:
        if start <= mapping.start < end:
            found[KINDS[0]] += size
        else:
            found[KINDS[1] if "x" in mapping.flags else KINDS[2]] += size
    return found


def _anonymous(pid: int) -> list[tuple[Mapping, int]]:
    """Each mapping of process ``pid`` with the bytes of anonymous memory in it."""
    found: list[tuple[Mapping, int]] = []
    for line in read_lines(pid, "smaps", PROC):
        if not line[:1].isupper():
            if mapping := parse(line):
                found.append((mapping, 0))
        elif line.startswith(b"Anonymous:") and found:
            kilobytes = number(line.partition(b":")[2], b"kB") or 0
            found[-1] = (found[-1][0], kilobytes * 1024)
    return found


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
