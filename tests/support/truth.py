"""What merging would save, counted by brute force over the bytes of processes. Needs root.

Nothing here is shared with the finder: it parses maps by itself, reads bytes through /proc/PID/mem
one page after the other, compares them as they are, and asks pagemap and kpageflags for frames.
Sources: proc_pid_maps(5), Documentation/admin-guide/mm/pagemap.rst of Linux.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from pagemerge.find.tally import Totals
from pagemerge.linux.process import PROC
from pagemerge.model import PAGE_SIZE

from .frames import ZERO_PAGE, flags_of

PRESENT, OF_FILE, NUMBER = 1 << 63, 1 << 61, (1 << 55) - 1
ZEROS = bytes(PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class Page:
    """One anonymous page of a process."""

    pid: int
    content: bytes
    frame: int
    markable: bool
    """In an anonymous mapping that is no heap or stack."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one process, as in ``survey.Row``."""

    pages: int
    zero_pages: int
    duplicate_pages: int
    shared_pages: int
    saveable: Fraction
    """Frames."""


def pages_of(pid: int) -> list[Page]:
    """All anonymous pages of a process in memory that it may read itself, by address."""
    found = []
    with (
        (PROC / str(pid) / "mem").open("rb", buffering=0) as memory,
        (PROC / str(pid) / "pagemap").open("rb", buffering=0) as pagemap,
    ):
        for line in (PROC / str(pid) / "maps").read_text().splitlines():
            where, rights, _, _, inode, *path = line.split()
            if rights[0] != "r" or rights[3] != "p" or (path and path[0].startswith("[v")):
                continue
            first, end = (int(it, 16) // PAGE_SIZE for it in where.split("-"))
            entries = memoryview(os.pread(pagemap.fileno(), 8 * (end - first), 8 * first))
            for number, entry in enumerate(entries.cast("Q"), first):
                if not entry & PRESENT or entry & OF_FILE:
                    continue
                if flags_of(frame := entry & NUMBER) & ZERO_PAGE:
                    continue
                content = os.pread(memory.fileno(), PAGE_SIZE, number * PAGE_SIZE)
                assert len(content) == PAGE_SIZE and frame
                found.append(Page(pid, content, frame, inode == "0" and not path))
    return found


def totals(pages: Sequence[Page]) -> Totals:
    """The totals of one domain, whose pages are given process after process."""
    groups = _by_content(pages)
    copies = [Counter(it.pid for it in group) for group in groups]
    frames = [Counter(it.pid for it in _one_of_each_frame(group)) for group in groups]
    saveable_zeros = _one_of_each_frame(it for it in pages if it.content == ZEROS)
    markable = sum(
        (_freed(group) * sum(it.markable for it in group) / len(group) for group in groups),
        Fraction(sum(it.markable for it in saveable_zeros)),
    )
    return Totals(
        pages=len(pages),
        zero_pages=sum(it.content == ZEROS for it in pages),
        duplicate_pages_within=sum(it.total() - len(it) for it in copies),
        duplicate_pages_across=sum(len(it) - 1 for it in copies),
        already_shared_pages=len(pages) - len(_one_of_each_frame(pages)),
        saveable_zero_pages=len(saveable_zeros),
        saveable_within_pages=sum(it.total() - len(it) for it in frames),
        saveable_across_pages=sum(len(it) - 1 for it in frames),
        markable_pages=int(markable),
    )


def row(pid: int, pages: Sequence[Page]) -> Row:
    """The figures of one process in its domain."""
    users, copies = Counter(it.frame for it in pages), Counter(it.content for it in pages)
    own = [it for it in pages if it.pid == pid]
    freed = {group[0].content: _freed(group) / len(group) for group in _by_content(pages)}
    first = {id(it) for it in _one_of_each_frame(pages)}
    zeros = [it for it in own if it.content == ZEROS]
    return Row(
        pages=len(own),
        zero_pages=len(zeros),
        duplicate_pages=sum(it.content != ZEROS and copies[it.content] > 1 for it in own),
        shared_pages=sum(users[it.frame] > 1 for it in own),
        saveable=sum((freed[it.content] for it in own if it.content != ZEROS), Fraction(0))
        + sum(id(it) in first for it in zeros),
    )


def _by_content(pages: Iterable[Page]) -> list[list[Page]]:
    groups = defaultdict(list)
    for it in pages:
        if it.content != ZEROS:
            groups[it.content].append(it)
    return list(groups.values())


def _one_of_each_frame(pages: Iterable[Page]) -> list[Page]:
    """The first page of each frame."""
    first: dict[int, Page] = {}
    for it in pages:
        first.setdefault(it.frame, it)
    return list(first.values())


def _freed(group: Sequence[Page]) -> Fraction:
    return Fraction(len(_one_of_each_frame(group)) - 1)
