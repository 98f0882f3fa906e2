"""What a process costs besides its private pages, and what merging has saved of it already.

Sources: proc_pid_status(5), Documentation/filesystems/proc.rst (smaps_rollup) and
Documentation/admin-guide/mm/ksm.rst of Linux. ``smaps_rollup`` walks all page tables of a process
under its mm lock: read it once for each process, never in a loop.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux import process as linux
from pagemerge.linux.process import PROC
from pagemerge.linux.smaps import sums
from pagemerge.linux.values import number, number_in, pairs

STACK_BYTES = 16384
"""The kernel's stack of one thread: THREAD_SIZE, x86-64 and arm64 with pages of 4 kB (Linux
arch/*/include/asm/page_64_types.h, memory.h)."""

_SHARED, _HUGE = b"Pss_Shmem", b"AnonHugePages"


@dataclass(frozen=True, slots=True)
class Charges:
    """What one process costs besides its private pages; all 0 for a memory image."""

    table_bytes: int = 0
    """Its page tables (VmPTE)."""
    stack_bytes: int = 0
    """The kernel's stacks of its threads."""
    shared_memory_bytes: int = 0
    """Its part of shared memory (memfd, tmpfs, System V): each page divided by the processes that
    map it. Before Linux 5.4 each page in full."""
    huge_bytes: int = 0
    """Anonymous memory that it maps as transparent huge pages of 2 MiB."""
    ksm_pages: int = 0
    """Pages that ksmd has merged with others; 0 before Linux 5.19."""
    ksm_zero_pages: int = 0
    """Pages that ksmd has mapped to the kernel's page of zeros; 0 before Linux 6.6."""

    @property
    def bytes(self) -> int:
        """What a further process like this one costs besides its private pages."""
        return self.table_bytes + self.stack_bytes + self.shared_memory_bytes


def charges(pid: int, *, proc: Path = PROC) -> Charges:
    """Read what process ``pid`` costs besides its private pages.

    Raises ``NoSuchProcess``, ``AccessDenied``, ``PagemergeError``.
    """
    status = pairs(linux.read(pid, "status", proc))
    sums = _rollup(pid, proc)
    shared = sums.get(_SHARED)
    return Charges(
        table_bytes=_kilobytes(status.get(b"VmPTE")),
        stack_bytes=STACK_BYTES * (number(status.get(b"Threads")) or 1),
        shared_memory_bytes=_kilobytes(status.get(b"RssShmem")) if shared is None else shared,
        huge_bytes=sums[_HUGE],
        ksm_pages=number_in(proc / str(pid) / "ksm_merging_pages") or 0,
        ksm_zero_pages=ksm_zero_pages(pid, proc=proc),
    )


def ksm_zero_pages(pid: int, *, proc: Path = PROC) -> int:
    """Count the pages that ksmd has mapped to the kernel's page of zeros; 0 if it is not known."""
    with contextlib.suppress(PagemergeError):
        return max(number(linux.ksm_stat(pid, proc).get("ksm_zero_pages")) or 0, 0)
    return 0


def _rollup(pid: int, proc: Path) -> Counter[bytes]:
    """Read ``smaps_rollup``; empty if there is none (before Linux 4.14)."""
    with contextlib.suppress(PagemergeError):
        return sums(pid, (_SHARED, _HUGE), proc)
    return Counter()


def _kilobytes(value: bytes | None) -> int:
    return 1024 * (number(value, b"kB") or 0)
