"""Opts a running process in to kernel KSM, and out again.

Only a process itself can have its memory merged, so pagemerge stops it for a moment and makes it
ask (``crates/pages/src/inject``): for all of its memory by prctl(PR_SET_MEMORY_MERGE), which also
holds for memory that it maps later and for its children; on kernels before 6.4, range by range by
madvise.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pagemerge import _core
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux.aside import readers
from pagemerge.linux.ksm import ksm_bytes, process_ksm
from pagemerge.linux.process import PROC, pids

How = Literal["prctl", "madvise"]
Ranges = Sequence[tuple[int, int]]
"""Start and end address of each range."""

MERGEABLE = 12
"""madvise(2), include/uapi/asm-generic/mman-common.h of Linux."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done to one process."""

    pid: int
    name: str
    how: How
    already: bool
    """True if nothing had to be done. Never with ``madvise``, where the kernel does not tell."""
    held_seconds: float
    """Seconds for which one of its threads was stopped, in total."""
    longest_hold_seconds: float
    """Seconds of the longest stop."""
    ranges: int
    """Ranges that were marked one by one, or pieces that were separated."""
    refused_ranges: int
    """Ranges or pieces that were refused: unmapped meanwhile, too many mappings, or no memory."""
    merged_pages_before: int | None
    """Pages of it that mapped a stable page of ksmd before, as of ksmd's last scan; None if the
    kernel does not tell. The number afterwards is unknown until ksmd scans the process again."""
    stops: int = 1
    """How often one of its threads was stopped."""
    seconds: float = 0.0
    """Seconds that all of it took."""
    separated_bytes: int | None = None
    """Bytes of memory that were merged and are the process's own again; None if the kernel does not
    tell (before Linux 6.7), and for ``attach``."""
    still_mergeable: bool | None = None
    """True if some of its memory can still be merged: it has marked more meanwhile, or something
    was refused. None if the kernel does not tell, and for ``attach``."""


def attach(pid: int, name: str, ranges: Callable[[], Ranges], how: How | None = None) -> Outcome:
    """Let ksmd merge the memory of process ``pid``; ``how`` None: all of it, where Linux can.

    ``ranges`` is called for the ranges to mark, if they have to be marked one by one. Raises
    ``PagemergeError`` with the reason if the process cannot be stopped and made to ask;
    ``NoSuchProcess``; ``AccessDenied``; ``Unsupported`` for a ``prctl`` that this kernel lacks.
    """
    before, began = merging_pages(pid), time.monotonic()
    if how != "madvise":
        try:
            already, held = _core.inject_prctl(pid, True)
            took = time.monotonic() - began
            return Outcome(pid, name, "prctl", already, held, held, 0, 0, before, seconds=took)
        except Unsupported:
            if how is not None:
                raise
    chosen = ranges()
    starts = array("Q", (start for start, _ in chosen))
    lengths = array("Q", (end - start for start, end in chosen))
    told, stops, held, longest = _core.inject_madvise(pid, starts, lengths, MERGEABLE)
    refused, took = sum(map(bool, memoryview(told).cast("i"))), time.monotonic() - began
    return Outcome(
        pid, name, "madvise", False, held, longest, len(chosen), refused, before, stops, took
    )


def detach(
    pid: int,
    name: str,
    ranges: Callable[[], Ranges],
    progress: Callable[[int], object] = lambda _bytes: None,
) -> Outcome:
    """Undo ``attach``, and separate merged pages. Also undoes what the program has marked itself.

    ``ranges`` is called for all of its memory that can be mergeable, in order of address.
    ``progress`` is called with the bytes done since the last call, and an error that it raises ends
    the work. Raises the errors of ``attach``; pages that were separated until then stay separated.
    """
    before, began = merging_pages(pid), time.monotonic()
    merged, tells = merged_bytes(pid), process_ksm(pid).mergeable is not None
    done = _Separated()
    if _is_marked(pid):
        done.add(pid, ranges(), progress, across=tells)
    # Last, because this call separates all remaining pages at once. Memory that the process maps
    # before this call is still mergeable until then, but that is not much.
    try:
        was_on, held = _core.inject_prctl(pid, False)
        done.held += held
        done.longest = max(done.longest, held)
        done.stops += 1
    except Unsupported:
        was_on = False
    if tells and done.calls:
        done.refused = 0  # unless the kernel says that something is left
        if _is_marked(pid):
            done.add(pid, ranges(), lambda _bytes: None, across=False)
    left = merged_bytes(pid)
    nothing = not was_on and not done.calls
    return Outcome(
        pid,
        name,
        "prctl" if was_on or nothing else "madvise",
        nothing,
        done.held,
        done.longest,
        done.calls,
        done.refused,
        before,
        done.stops,
        time.monotonic() - began,
        None if merged is None or left is None else max(merged - left, 0),
        _is_marked(pid) if tells else None,
    )


@dataclass(slots=True)
class _Separated:
    """The stops, calls and seconds of separating so far, as in ``Outcome``."""

    stops: int = 0
    calls: int = 0
    refused: int = 0
    held: float = 0.0
    longest: float = 0.0

    def add(
        self, pid: int, ranges: Ranges, progress: Callable[[int], object], *, across: bool
    ) -> None:
        """Separate ``ranges`` of a process; ``across``: see ``_core.inject_separate``."""
        starts = array("Q", (start for start, _ in ranges))
        ends = array("Q", (end for _, end in ranges))
        told = _core.inject_separate(pid, starts, ends, across, progress)
        stops, calls, refused, held, longest = told
        self.stops += stops
        self.calls += calls
        self.refused += refused
        self.held += held
        self.longest = max(self.longest, longest)


def merging_pages(pid: int, proc: Path = PROC) -> int | None:
    """Return the pages of process ``pid`` that map a stable page of ksmd; None if unknown."""
    try:
        return process_ksm(pid, proc).merging_pages
    except PagemergeError:
        return None


def users_merged(proc: Path = PROC) -> dict[int, list[int]]:
    """Return the processes that ksmd may already merge, by user.

    Kernel KSM is one domain for all users.
    """
    users: dict[int, list[int]] = {}
    found = pids(proc)
    told = readers.quick(_merged_user, found, [(pid, proc) for pid in found])
    for pid, uid in zip(found, told, strict=True):
        if isinstance(uid, int):
            users.setdefault(uid, []).append(pid)
    return users


def _merged_user(pid: int, proc: Path) -> int | None:
    """Return the user of a process that ksmd may already merge; None for others."""
    try:
        found = process_ksm(pid, proc)
        if found.merge_any or found.mergeable or found.merging_pages:
            return (proc / str(pid)).stat().st_uid
    except (PagemergeError, OSError):
        pass
    return None


def listed(users: Mapping[int, Sequence[int]]) -> str:
    """Return users and a process of each, as text: ``uid 7 (process 42 and 3 more)``."""
    found = []
    for uid, (first, *others) in sorted(users.items()):
        more = f" and {len(others):,} more" if others else ""
        found.append(f"uid {uid} (process {first}{more})")
    return ", ".join(found)


def merged_bytes(pid: int) -> int | None:
    """Return the bytes of a process that are merged now; None if the kernel does not tell."""
    try:
        return ksm_bytes(pid)
    except PagemergeError:
        return None


def _is_marked(pid: int) -> bool:
    """Return true if any memory of a process can be merged, or if the kernel does not tell."""
    return process_ksm(pid).mergeable is not False
