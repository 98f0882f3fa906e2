"""Selects what to mark in which process, from what the finder sees. Marks nothing itself."""

from __future__ import annotations

from collections.abc import Sequence

from pagemerge.errors import UsageError
from pagemerge.find import evidence
from pagemerge.find.look import Progress
from pagemerge.find.process import Process
from pagemerge.ksmd.decide import ranges as decide
from pagemerge.ksmd.model import HUGE_PRICE, Selection
from pagemerge.linux.process import most_mappings


def select(
    processes: Sequence[Process],
    beside: Sequence[Process] = (),
    *,
    share: float = decide.SHARE,
    zero_pages: bool = True,
    whole: bool = False,
    huge_price: int = HUGE_PRICE,
    threads: int = 0,
    progress: Progress = lambda _done, _total: None,
) -> list[Selection]:
    """Return the ranges of ``processes`` that are worth marking: one selection for each process.

    ``beside``: processes whose memory is marked already, so that pages equal to theirs count as
    duplicates. ``share``: least part of a range that is duplicates, 0 to 1. ``zero_pages``: whether
    zero pages count. ``whole``: split no mapping, see ``decide.ranges.choose``.
    ``huge_price``: fewest duplicates of a huge page (2 MiB) that are worth splitting it; 0: all.

    This only reads; a process that cannot be looked at has an ``error``. Raises ``UsageError`` if
    ``share`` is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"{share:g} is no share of a range: give a number between 0 and 1")
    found = evidence.gather(
        [*processes, *beside],
        threads,
        zero_pages=zero_pages,
        huge_price=huge_price,
        progress=progress,
    )
    limit = most_mappings()
    return [
        decide.choose(evidence, share=share, most=decide.budget(evidence, limit), whole=whole)
        for evidence in found[: len(processes)]
    ]
