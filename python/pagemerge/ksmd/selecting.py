"""What to mark in which process: the finder looks, and ranges are chosen. Marks nothing itself."""

from __future__ import annotations

from collections.abc import Sequence

from pagemerge.errors import UsageError
from pagemerge.find import evidence
from pagemerge.find.process import Process
from pagemerge.find.reading import Progress
from pagemerge.ksmd.decide import ranges as decide
from pagemerge.ksmd.model import Selection
from pagemerge.linux.process import most_mappings


def select(
    processes: Sequence[Process],
    beside: Sequence[Process] = (),
    *,
    share: float = decide.SHARE,
    zero_pages: bool = True,
    whole: bool = False,
    threads: int = 0,
    progress: Progress = lambda _done, _total: None,
) -> list[Selection]:
    """The ranges of ``processes`` that are worth being marked, one answer for each.

    ``beside``: processes whose memory is marked already, so that what is like theirs counts as a
    duplicate. ``share``: least part of a range that is duplicates, 0 to 1. ``zero_pages``: whether
    zero pages count. ``whole``: split no mapping, see ``decide.select.choose``.

    Reads only; a process that cannot be looked at has an ``error``. Raises ``UsageError`` for a
    share that is none.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"{share:g} is no share of a range: give one between 0 and 1")
    found = evidence.gather(
        [*processes, *beside], threads, zero_pages=zero_pages, progress=progress
    )
    limit = most_mappings()
    return [
        decide.choose(evidence, share=share, most=decide.budget(evidence, limit), whole=whole)
        for evidence in found[: len(processes)]
    ]
