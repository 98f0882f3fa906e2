"""What is saved for the same processor time, as benchmarks/frontier.py compares it."""

from __future__ import annotations

import pytest
from benchmarks.lab.equal_cost import Point, Sum, beside, best, equal, over_time, until

LATE = [Point(0, 0, 0.0), Point(10, 0, 0.5), Point(20, 100, 1.0)]
"""Saves nothing in its first half, then more and more."""
EARLY = [Point(0, 0, 0.4), Point(2, 100, 0.6), Point(20, 100, 0.8)]


def test_savings_and_processor_time_between_two_points_lie_on_a_line() -> None:
    assert until(LATE, 20) == Sum(500.0, 1.0)
    assert until(LATE, 10) == Sum(0.0, 0.5)
    assert until(LATE, 15) == Sum(125.0, 0.75)


def test_what_was_spent_while_memory_was_filled_counts_from_the_start() -> None:
    assert until(EARLY, 0) == Sum(0.0, 0.4)


def test_a_ratio_to_nothing_is_none() -> None:
    assert beside(Sum(900.0, 0.5), Sum(0.5, 1.0), 1000.0) == {"times_saved": None, "times_cpu": 0.5}
    assert beside(Sum(900.0, 0.5), Sum(90.0, 0.0), 1e3) == {"times_saved": 10.0, "times_cpu": None}


def test_the_best_is_one_that_costs_no_more() -> None:
    sums = {"dear": Sum(9.0, 2.0), "good": Sum(8.0, 1.0), "cheap": Sum(1.0, 0.1)}
    assert best(sums, 1.0) == "good"
    assert best(sums, 0.5) == "cheap"
    assert best(sums, 0.05) is None


def test_at_each_moment_the_best_that_is_cheap_enough_until_then_is_compared() -> None:
    rows = over_time({"base": LATE, "own": EARLY}, "base", ["own"], 100, 20.0)
    assert [it["seconds"] for it in rows] == [2.5, 5.0, 7.5, 10.0, 12.5, 15.0, 17.5, 20.0]
    assert [it["setting"] for it in rows] == [None] * 5 + ["own"] * 3
    assert rows[-1]["times_saved"] == pytest.approx(1900 / 500)


def test_costs_are_equal_from_the_last_moment_on_at_which_it_has_cost_more() -> None:
    fine = [Point(at, 100 * max(at - 10, 0) // 10, at / 20) for at in range(21)]
    told = equal(EARLY, fine, 5.0, 100)
    assert told["from_seconds"] == 15
    assert told["times_saved"] == pytest.approx(1400 / 125)
    assert told["until_seconds"] == 18, "1700 are 5 times 320, and 1800 are not 5 times 405"


def test_what_costs_more_to_the_end_is_not_compared() -> None:
    assert equal([Point(0, 0, 2.0), Point(20, 100, 2.0)], LATE, 5.0, 100)["from_seconds"] is None


def test_saving_nothing_is_no_goal_reached_even_beside_nothing() -> None:
    told = equal([Point(0, 0, 0.0), Point(20, 0, 0.1)], LATE[:2], 5.0, 100)
    assert told == {"from_seconds": 10, "times_saved": None, "until_seconds": None}
