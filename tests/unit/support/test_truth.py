"""The brute force that the survey is tested against, on pages that anybody can count."""

from __future__ import annotations

from fractions import Fraction

from pagemerge.find.tally import Totals
from tests.support import truth
from tests.support.truth import Page

A, B, C = b"a", b"b", b"c"


def page(pid: int, content: bytes, frame: int, markable: bool = True) -> Page:
    return Page(pid, content, frame, markable)


PAGES = [
    # Process 1 has A three times, two of them in one frame; process 2 has one of these and another.
    *(page(1, A, 1), page(1, A, 1), page(1, A, 2), page(2, A, 2), page(2, A, 3)),
    # B is in one frame that both map: nothing is left to save. C is unique.
    *(page(1, B, 4), page(2, B, 4), page(1, C, 5)),
    # Zeros: three pages in two frames, one of them in a heap.
    *(page(1, truth.ZEROS, 6), page(2, truth.ZEROS, 6), page(2, truth.ZEROS, 7, False)),
]


def test_totals() -> None:
    assert truth.totals(sorted(PAGES, key=lambda it: it.pid)) == Totals(
        pages=11,
        zero_pages=3,
        duplicate_pages_within=3,
        duplicate_pages_across=2,
        already_shared_pages=4,
        saveable_zero_pages=2,
        saveable_within_pages=1,
        saveable_across_pages=1,
        markable_pages=3,
    )


def test_rows() -> None:
    ordered = sorted(PAGES, key=lambda it: it.pid)
    first, second = truth.row(1, ordered), truth.row(2, ordered)
    assert first == truth.Row(6, 1, 4, 5, 3 * Fraction(2, 5) + 1)
    assert second == truth.Row(5, 2, 3, 3, 2 * Fraction(2, 5) + 1)
    assert first.saveable + second.saveable == 4
