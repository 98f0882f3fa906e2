"""Opting a running process in to kernel KSM, and out again.

Only a process itself can have its memory merged, so it is stopped for a moment and made to ask
(``crates/pages/src/inject``): for all of its memory by prctl(PR_SET_MEMORY_MERGE), which holds for
what it maps later and for its children, too; on kernels before 6.4 range by range by madvise.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pagemerge import _core
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux.proc import PROC, pids
from pagemerge.merge.kernel import process_ksm

How = Literal["prctl", "madvise"]
Ranges = Sequence[tuple[int, int]]
"""Start and end address of each."""

MERGEABLE, UNMERGEABLE = 12, 13
"""madvise(2), include/uapi/asm-generic/mman-common.h of Linux."""

PIECE = 4 << 20
"""Bytes that are separated in one system call: a few milliseconds if all of them are merged."""
TOLD = 64 << 20
"""Bytes after which progress is told."""
AT_ONCE = 1024
"""Merged pages that one prctl may separate. It keeps the whole process from mapping memory and
from page faults meanwhile, some microseconds a page."""


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
    """Ranges that were marked or unmarked one by one."""
    refused_ranges: int
    """... of which so many could not be: unmapped meanwhile, or too many mappings."""
    merged_pages_before: int | None
    """Pages of it that mapped a stable page of ksmd before, as of ksmd's last scan; None where the
    kernel does not tell. Afterwards nobody knows yet: ksmd counts when it comes by."""


def attach(pid: int, name: str, ranges: Callable[[], Ranges], how: How | None = None) -> Outcome:
    """Let ksmd merge the memory of process ``pid``; ``how`` None: all of it, where Linux can.

    ``ranges`` is asked for what may be marked, if it has to be range by range. Raises
    ``PagemergeError`` with the reason if the process cannot be stopped and made to ask;
    ``NoSuchProcess``; ``AccessDenied``; ``Unsupported`` for a ``prctl`` that this kernel lacks.
    """
    if how != "madvise":
        before = merging_pages(pid)
        try:
            already, held = _core.inject_prctl(pid, True)
            return Outcome(pid, name, "prctl", already, held, held, 0, 0, before)
        except Unsupported:
            if how is not None:
                raise
    return _advised(pid, name, ranges(), MERGEABLE)


def detach(
    pid: int,
    name: str,
    ranges: Callable[[], Ranges],
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Outcome:
    """Undo ``attach``, and separate what was merged. Also undoes what the program marked itself.

    ``ranges`` is asked for all of its memory that can be mergeable, in order of address;
    ``progress`` is told of bytes of them that were done since the last time. Errors as ``attach``.
    """
    pieces, before = None, merging_pages(pid)

    def separate() -> Outcome:
        return _advised(pid, name, cut(joined(ranges()), PIECE), UNMERGEABLE, progress)

    if (before or 0) > AT_ONCE:
        pieces = separate()
    try:
        was_on, held = _core.inject_prctl(pid, False)
    except Unsupported:
        return pieces or separate()
    if not was_on and pieces is None and _has_marks(pid):
        pieces = separate()
    longest, count, refused = held, 0, 0
    if pieces is not None:
        held += pieces.held_seconds
        longest = max(longest, pieces.longest_hold_seconds)
        count, refused = pieces.ranges, pieces.refused_ranges
    nothing = not was_on and pieces is None
    return Outcome(
        pid,
        name,
        "prctl" if was_on or nothing else "madvise",
        nothing,
        held,
        longest,
        count,
        refused,
        before,
    )


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """``ranges``, in order of address, those side by side as one: one call does for both."""
    found: list[tuple[int, int]] = []
    for start, end in ranges:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def cut(ranges: Iterable[tuple[int, int]], piece: int) -> list[tuple[int, int]]:
    """``ranges`` in pieces of at most ``piece`` bytes, in the same order."""
    return [
        (start, min(start + piece, end))
        for first, end in ranges
        for start in range(first, end, piece)
    ]


def batches(ranges: Ranges, most: int) -> Iterator[Ranges]:
    """``ranges`` in order, so many at a time that they have ``most`` bytes, or few more."""
    first, size = 0, 0
    for at, (start, end) in enumerate(ranges, 1):
        size += end - start
        if size >= most or at == len(ranges):
            yield ranges[first:at]
            first, size = at, 0


def merging_pages(pid: int, proc: Path = PROC) -> int | None:
    """Pages of process ``pid`` that map a stable page of ksmd; None where that is not to be had."""
    try:
        return process_ksm(pid, proc).merging_pages
    except PagemergeError:
        return None


def users_merged(proc: Path = PROC) -> set[int]:
    """The users whose processes ksmd may merge already: kernel KSM has one domain for all."""
    users = set()
    for pid in pids(proc):
        try:
            found = process_ksm(pid, proc)
            if found.merge_any or found.mergeable or found.merging_pages:
                users.add((proc / str(pid)).stat().st_uid)
        except (PagemergeError, OSError):
            continue
    return users


def _has_marks(pid: int) -> bool:
    """Has anything in it been marked range by range? Where the kernel does not tell: yes."""
    return process_ksm(pid).mergeable is not False


def _advised(
    pid: int,
    name: str,
    ranges: Ranges,
    advice: int,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Outcome:
    before, refused, held, longest = merging_pages(pid), 0, 0.0, 0.0
    for some in batches(ranges, TOLD):
        starts = array("Q", (start for start, _ in some))
        lengths = array("Q", (end - start for start, end in some))
        told, seconds, most = _core.inject_madvise(pid, starts, lengths, advice)
        refused += sum(map(bool, memoryview(told).cast("i")))
        held, longest = held + seconds, max(longest, most)
        progress(sum(lengths))
    return Outcome(pid, name, "madvise", False, held, longest, len(ranges), refused, before)
