"""Intervals: how often they hold the truth, and what they do at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from pagemerge.estimate.interval import Interval, Stratum, total

PAGES = 10_000_000
CASES = 400


def one(pages: int, values: ArrayLike) -> Interval:
    known = np.asarray(values, np.float64)
    return total([Stratum(pages, known, known)])


@pytest.mark.parametrize("drawn", [400, 10_000])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 0.5), (0, 0.95), (0, 1), (0.5, 0.95), (0.9, 0.95), (0.9, 1)]
)
def test_it_holds_the_truth_however_skewed_the_values_are(
    low: float, high: float, drawn: int
) -> None:
    """Two values, of which one is rare, are the most skewed population there is."""
    random = np.random.default_rng(int(drawn + 100 * high + 10 * low))
    for share in (1e-4, 1e-3, 5e-3, 0.03, 0.3, 0.97, 0.999):
        truth = PAGES * (low + (high - low) * share)
        held = 0
        for often in random.binomial(drawn, share, CASES):
            found = one(PAGES, np.repeat([low, high], [drawn - often, often]))
            held += found.low_pages <= truth <= found.high_pages
        assert held >= 0.93 * CASES, (share, held)


def test_a_sample_without_duplicates_does_not_prove_that_there_are_none() -> None:
    found = one(1_000_000, np.zeros(10_000))
    assert found.pages == found.low_pages == 0
    # With 3 duplicates in 10,000 pages, a sample of as many misses them in one of 20 cases.
    assert 300 < found.high_pages < 1000


def test_all_pages_drawn_leave_no_doubt() -> None:
    found = one(4, [0, 1, 1, 0.5])
    assert found == Interval(2.5, 2.5, 2.5)
    assert one(0, []) == Interval(0, 0, 0)
    nearly = one(1000, [0, 1] * 499 + [1])
    assert nearly.high_pages - nearly.low_pages < 6


def test_no_sample_tells_nothing() -> None:
    found = one(1000, [])
    assert (found.pages, found.low_pages, found.high_pages) == pytest.approx((500, 0, 1000))


def test_errors_of_strata_add_up_as_squares() -> None:
    half = np.repeat([0.0, 1.0], 500)
    alone = total([Stratum(PAGES, half, half)])
    four = total([Stratum(PAGES, half, half)] * 4, certain_pages=100)
    assert four.pages == pytest.approx(4 * alone.pages + 100)
    assert four.high_pages - four.pages == pytest.approx(2 * (alone.high_pages - alone.pages))
    assert four.pages - four.low_pages == pytest.approx(2 * (alone.pages - alone.low_pages))


def test_what_is_unknown_widens_the_upper_side_by_all_that_it_may_be() -> None:
    low = np.zeros(1000)
    high = low.copy()
    high[:100] = 1
    found = total([Stratum(PAGES, low, high)])
    assert found.pages == found.low_pages == 0
    assert found.high_pages > PAGES / 10
