"""Counts what kernel KSM has merged at this moment, in page tables, frame by frame.

KSM's own counters lag. A merged page that was written to, or whose process has ended, stays in
``pages_sharing`` until ksmd scans it, and a ksmd that stands still never does. Sources:
Documentation/admin-guide/mm/pagemap.rst of Linux (pagemap, kpageflags).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge.errors import PagemergeError
from pagemerge.find import eligible
from pagemerge.find.pages import present_runs
from pagemerge.find.tally import EXCLUSIVE, FRAME, PRESENT
from pagemerge.linux.aside import readers
from pagemerge.linux.maps import devices, mappings
from pagemerge.linux.process import PROC

UInt64s = NDArray[np.uint64]

KSM = np.uint64(1 << 21)
"""KPF_KSM, a bit of a frame's flags."""
WINDOW = 512
"""Frames whose flags are read at once: frames of one process often lie near each other."""
AT_ONCE = 1 << 20
"""Pages whose entries are held at once."""


def sharing_pages(pids: Iterable[int], proc: Path = PROC) -> int | None:
    """Count the mappings of stable pages beyond the first of each, in these processes together.

    The result is what ``pages_sharing`` would be if ksmd had just scanned all; zero pages are not
    in it. A process that has ended or cannot be looked at adds nothing. None if the kernel does not
    show frames or their flags (CAP_SYS_ADMIN, CONFIG_PROC_PAGE_MONITOR).
    """
    told = readers.each(_shared, list(pids))
    found = [frames for one in told if not isinstance(one, PagemergeError) for frames in one]
    everything = np.concatenate(found) if found else np.empty(0, np.uint64)
    frames, mapped = np.unique(everything, return_counts=True)
    if len(frames) and frames[0] == 0:
        return None
    several = mapped > 1
    try:
        flags = _flags(frames[several], proc)
    except OSError:
        return None
    return int((mapped[several] - 1)[flags & KSM != 0].sum())


def present(pid: int) -> tuple[UInt64s, UInt64s]:
    """Return the runs of anonymous pages that are merged or can be: addresses and pages, u64[r].

    There are no runs for a process that cannot be looked at.
    """
    runs = []
    try:
        known = devices(pid)
        for mapping in mappings(pid):
            if not eligible.obstacle(mapping, known) and not mapping.slab:
                runs.append(present_runs(pid, mapping.start, mapping.end, anonymous=True))
    except PagemergeError:
        runs = []
    if not runs:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    starts, pages = zip(*runs, strict=True)
    return np.concatenate(starts), np.concatenate(pages)


def _shared(pid: int) -> list[UInt64s]:
    """Return the frames of a process that are mapped more than once, by itself or by others."""
    starts, pages = present(pid)
    cuts = np.searchsorted(np.cumsum(pages), np.arange(AT_ONCE, int(pages.sum()), AT_ONCE))
    found: list[UInt64s] = []
    for some, many in zip(np.split(starts, cuts), np.split(pages, cuts), strict=True):
        entries = np.empty(int(many.sum()), np.uint64)
        try:
            _core.pagemap(pid, some, many, entries)
        except PagemergeError:
            return []
        found.append(entries[entries & (PRESENT | EXCLUSIVE) == PRESENT] & FRAME)
    return found


def _flags(frames: UInt64s, proc: Path) -> UInt64s:
    """Return the flags of frames, which ascend: u64[n]."""
    flags = np.zeros(len(frames), np.uint64)
    window = frames // np.uint64(WINDOW)
    starts = np.flatnonzero(np.diff(window, prepend=np.uint64(2**64 - 1)))
    descriptor = os.open(proc / "kpageflags", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for here in np.split(np.arange(len(frames)), starts[1:]) if len(frames) else ():
            first = int(window[here[0]]) * WINDOW
            last = int(frames[here[-1]])
            read = os.pread(descriptor, 8 * (last + 1 - first), 8 * first)
            into = (frames[here] - np.uint64(first)).astype(np.intp)
            flags[here] = np.frombuffer(read, np.uint64)[into]
    finally:
        os.close(descriptor)
    return flags
