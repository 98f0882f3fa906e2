"""Finds where the duplicates of processes lie, so that only these are marked; only reads.

ksmd looks at every page that is marked, and keeps 64 bytes for each page that does not merge. So
it pays to find the duplicates first. One look at all pages finds every one of them. Stretches of
duplicates are exact to the page, because blocks of any size would mix them with other pages.
``decide`` chooses how coarsely to mark them, as it knows the cost of a mapping.

Kernel KSM is one domain: this module compares pages across all given processes, of any user. The
caller should also give the processes whose memory is marked already; otherwise pages that equal
theirs count as unique.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from pagemerge._core import ABSENT
from pagemerge.errors import PagemergeError
from pagemerge.find import tally
from pagemerge.find.look import Progress, look
from pagemerge.find.pages import HUGE_BYTES, huge_blocks
from pagemerge.find.process import Process
from pagemerge.find.sources import ProcessSource, locate_for_ksmd, located
from pagemerge.linux.process import PROC
from pagemerge.linux.values import number_in
from pagemerge.model import PAGE_SIZE


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Where the duplicates of one process lie: the pages that merging would free.

    A *stretch* is a run of duplicates at consecutive addresses in one mapping; it takes 28 bytes.
    Only mappings with pages that were looked at are included. All arrays ascend by address.
    """

    pid: int
    name: str
    start: npt.NDArray[np.uint64]
    """u64[m]: address of each mapping's first byte."""
    end: npt.NDArray[np.uint64]
    """u64[m]: address of the byte after each mapping's last."""
    looked: npt.NDArray[np.int64]
    """i64[m + 1]: pages looked at before each mapping; the last element is their total."""
    address: npt.NDArray[np.uint64]
    """u64[s]: address of each stretch's first page."""
    pages: npt.NDArray[np.int64]
    """i64[s]: pages in each stretch."""
    before: npt.NDArray[np.int64]
    """i64[s]: pages looked at before the stretch."""
    gain: npt.NDArray[np.float32]
    """f32[s]: frames that merging the stretch frees; all holders of a page get equal shares."""
    mappings: int = 0
    """Number of VMAs of the process, of any kind."""
    error: str = ""
    """Why the process could not be looked at; all arrays are empty then."""


Int64s = NDArray[np.int64]


def gather(
    processes: Sequence[Process],
    threads: int = 0,
    *,
    zero_pages: bool = True,
    huge_price: int = 0,
    progress: Progress = lambda _done, _total: None,
) -> tuple[Evidence, ...]:
    """Look once at all pages of ``processes`` that ksmd could merge; one answer for each.

    Pages of zeros are duplicates like others: ksmd merges them with each other or, with
    use_zero_pages, maps the kernel's own page. Without ``zero_pages`` they count as unique, because
    memory also looks like that before it is used. Pages that share one frame since a fork are not
    duplicates: ksmd cannot free anything there. ``huge_price``: a huge page (2 MiB) with fewer
    duplicates than this has none, because ksmd would split it.

    A process that exits or denies access has an ``error``; nothing is raised for it.
    """
    sources = located(processes, locate_for_ksmd)
    found = look(sources, threads, progress)
    frames, ends = found.frames, found.offsets.tolist()
    parts = [slice(*pair) for pair in pairwise(ends)]
    for source, here in zip(sources, parts, strict=True):
        if _merged_by_ksmd(source.process.pid):
            # These frames are shared because the pages are duplicates. They must stay marked.
            frames[here] = ABSENT
    gain = tally.gains(found.digests, frames, zero_pages)
    if huge_price:
        for source, here in zip(sources, parts, strict=True):
            _spare(source, gain[here], huge_price)
    return tuple(_evidence(source, gain[here]) for source, here in zip(sources, parts, strict=True))


def _merged_by_ksmd(pid: int, proc: Path = PROC) -> bool:
    """Does the process have pages that ksmd has merged? Always false before Linux 5.19."""
    return (number_in(proc / str(pid) / "ksm_merging_pages") or 0) > 0


def _spare(source: ProcessSource, gain: NDArray[np.float32], price: int) -> None:
    """Set ``gain`` (f32[pages of the source]) to 0 for pages of huge pages with too few duplicates.
    A process that cannot be looked at any more keeps its gains."""
    ranges = [(mapping.start, mapping.end) for mapping in source.mappings]
    try:
        huge = huge_blocks(source.process.pid, ranges)
    except PagemergeError:
        return
    if source.error or len(huge) == 0:
        return
    pages = source.pages.astype(np.int64)
    within = np.arange(len(gain)) - np.repeat(np.cumsum(pages) - pages, pages)
    block = np.repeat(source.starts, pages) + within.astype(np.uint64) * np.uint64(PAGE_SIZE)
    spare_huge(gain, block // np.uint64(HUGE_BYTES), huge, price)


def spare_huge(
    gain: NDArray[np.float32],
    block: npt.NDArray[np.uint64],
    huge: npt.NDArray[np.uint64],
    price: int,
) -> None:
    """Set ``gain`` (f32[n]) to 0 for the pages of blocks that are in ``huge`` (u64[m], ascending)
    and have fewer than ``price`` pages with a gain. ``block`` (u64[n]): the block of each page."""
    at = np.minimum(np.searchsorted(huge, block), len(huge) - 1)
    inside = huge[at] == block
    counts = np.bincount(at[inside & (gain > 0)], minlength=len(huge))
    gain[inside & (counts[at] < price)] = 0


def _evidence(source: ProcessSource, gain: NDArray[np.float32]) -> Evidence:
    """Put ``gain`` (f32[pages of the source], what merging each would free) into stretches."""
    who = source.process
    if source.error:
        source = ProcessSource(who, error=source.error)
        gain = gain[:0]
    pages = source.pages.astype(np.int64)
    ends = np.cumsum(pages)
    run_first = ends - pages
    looked = np.concatenate(([0], ends))[np.cumsum([0, *source.runs])]
    before, behind = _stretches(gain > 0, run_first)
    run = np.searchsorted(run_first, before, side="right") - 1
    inside = (before - run_first[run]).astype(np.uint64) * np.uint64(PAGE_SIZE)
    return Evidence(
        pid=who.pid,
        name=who.name,
        start=np.array([mapping.start for mapping in source.mappings], np.uint64),
        end=np.array([mapping.end for mapping in source.mappings], np.uint64),
        looked=looked.astype(np.int64),
        address=source.starts[run] + inside,
        pages=behind - before,
        before=before,
        gain=np.add.reduceat(gain, before) if len(before) else gain[:0],
        mappings=source.mapped,
        error=source.error,
    )


def _stretches(duplicate: NDArray[np.bool_], run_first: Int64s) -> tuple[Int64s, Int64s]:
    """Find where stretches of ``duplicate`` (bool[n]) begin and end (int64[s] each).

    A stretch does not extend over the end of a run.
    """
    edge = np.zeros(len(duplicate) + 1, np.bool_)
    edge[run_first] = True
    edge[0] = edge[-1] = True
    changed = np.ones_like(edge)
    changed[1:-1] = (duplicate[1:] != duplicate[:-1]) | edge[1:-1]
    bounds = np.flatnonzero(changed)
    begins = bounds[:-1][duplicate[bounds[:-1]]] if len(duplicate) else bounds[:0]
    ends = bounds[1:][duplicate[bounds[:-1]]] if len(duplicate) else bounds[:0]
    return begins, ends
