"""Opting a running process in to kernel KSM, and out again.

Only a process itself can have its memory merged, so it is stopped for a moment and made to ask
(``crates/pages/src/inject``): for all of its memory by prctl(PR_SET_MEMORY_MERGE), which holds for
what it maps later and for its children, too; on kernels before 6.4 range by range by madvise.
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
from pagemerge.linux.ksm import ksm_bytes, process_ksm
from pagemerge.linux.process import PROC, pids

How = Literal["prctl", "madvise"]
Ranges = Sequence[tuple[int, int]]
"""Start and end address of each."""

MERGEABLE = 12
"""madvise(2), include/uapi/asm-generic/mman-common.h of Linux."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done to one process."""

    pid: int
    name: str
    how: How
    already: bool
    """It was so before: nothing had to be done. Never with ``madvise``, where nobody can tell."""
    held_seconds: float
    """For how long one of its threads was stopped, all in all."""
    longest_hold_seconds: float
    """... and at once."""
    ranges: int
    """Ranges that were marked one by one, or pieces that were separated."""
    refused_ranges: int
    """... of which so many could not be: unmapped meanwhile, too many mappings, or no memory."""
    merged_pages_before: int | None
    """Pages of it that mapped a stable page of ksmd before, as of ksmd's last scan; None where the
    kernel does not tell. Afterwards nobody knows yet: ksmd counts when it comes by."""
    stops: int = 1
    """How often one of its threads was stopped."""
    seconds: float = 0.0
    """How long all of it took."""
    separated_bytes: int | None = None
    """Memory that was merged, and is its own again; None where the kernel does not tell (before
    Linux 6.7), and for ``attach``."""
    still_mergeable: bool | None = None
    """Some of its memory can be merged after all: it has marked more meanwhile, or something was
    refused. None where the kernel does not tell, and for ``attach``."""


def attach(pid: int, name: str, ranges: Callable[[], Ranges], how: How | None = None) -> Outcome:
    """Let ksmd merge the memory of process ``pid``; ``how`` None: all of it, where Linux can.

    ``ranges`` is asked for what may be marked, if it has to be range by range. Raises
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
    """Undo ``attach``, and separate what was merged. Also undoes what the program marked itself.

    ``ranges`` is asked for all of its memory that can be mergeable, in order of address;
    ``progress`` is told of bytes of them that were done since the last time, and what it raises
    ends the work. Errors as ``attach``; what was separated until then stays so.
    """
    before, began = merging_pages(pid), time.monotonic()
    merged, tells = merged_bytes(pid), process_ksm(pid).mergeable is not None
    done = _Separated()
    if _is_marked(pid):
        done.add(pid, ranges(), progress, across=tells)
    # Last, because it separates all that is left in one call. Not first, though memory that is
    # mapped meanwhile is mergeable until then: that is not much.
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
    """What separating has taken so far: as ``Outcome`` has it."""

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
    """Pages of process ``pid`` that map a stable page of ksmd; None where that is not to be had."""
    try:
        return process_ksm(pid, proc).merging_pages
    except PagemergeError:
        return None


def users_merged(proc: Path = PROC) -> dict[int, list[int]]:
    """The processes that ksmd may merge already, by user: kernel KSM has one domain for all."""
    users: dict[int, list[int]] = {}
    for pid in pids(proc):
        try:
            found = process_ksm(pid, proc)
            if found.merge_any or found.mergeable or found.merging_pages:
                users.setdefault((proc / str(pid)).stat().st_uid, []).append(pid)
        except (PagemergeError, OSError):
            continue
    return users


def listed(users: Mapping[int, Sequence[int]]) -> str:
    """Users and a process of each, for people: ``uid 7 (process 42 and 3 more)``."""
    found = []
    for uid, (first, *others) in sorted(users.items()):
        more = f" and {len(others):,} more" if others else ""
        found.append(f"uid {uid} (process {first}{more})")
    return ", ".join(found)


def merged_bytes(pid: int) -> int | None:
    """Memory of it that is merged just now; None where the kernel does not tell."""
    try:
        return ksm_bytes(pid)
    except PagemergeError:
        return None


def _is_marked(pid: int) -> bool:
    """Can any of its memory be merged? Where the kernel does not tell: yes."""
    return process_ksm(pid).mergeable is not False
