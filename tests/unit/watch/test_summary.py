"""Sums over moments, and slices of time."""

from __future__ import annotations

import pytest

from pagemerge.watch.model import Decision
from pagemerge.watch.summary import LONGEST_GAP, Slices, Summary
from tests.unit.watch.moments import kernel, moment, user

MOMENTS = [
    moment(0.0, user=user(saved_bytes=100, separations=10, cpu_seconds=1.0)),
    moment(
        100.0,
        user=user(saved_bytes=300, separations=60, cpu_seconds=2.0),
        decisions=(Decision(50.0, "it seems done"), Decision(90.0, "3.2 MB to go")),
    ),
    moment(
        400.0,
        user=user(saved_bytes=100, separations=60, cpu_seconds=2.0),
        decisions=(Decision(300.0, "1.2 MB to go"),),
    ),
]


def summed(*moments: object) -> Summary:
    summary = Summary()
    for it in moments or MOMENTS:
        summary.add(it)  # type: ignore[arg-type]
    return summary


def test_the_mean_is_over_time() -> None:
    found = summed()
    assert (found.moments, found.seconds) == (3, 400)
    assert found.mean_bytes == 200
    assert found.highest == (300, 100.0) and found.lowest == (100, 0.0)
    assert found.separations == 50 and found.cpu_seconds == pytest.approx(1.0)
    assert found.topics == {"check": 1, "progress": 2} and found.decisions == 3
    assert found.last_decision == Decision(300.0, "1.2 MB to go")


def test_gaps_and_replaced_engines_do_not_count() -> None:
    later = moment(400 + LONGEST_GAP + 1, user=user(saved_bytes=900, separations=9999))
    found = summed(*MOMENTS, later)
    assert (found.seconds, found.mean_bytes, found.separations) == (400, 200, 50)
    other = moment(401.0, user=user(hub_pid=8, separations=5000))
    assert summed(*MOMENTS, other).separations == 50


def test_the_kernel_counts_too() -> None:
    found = summed(
        moment(0.0, kernel=kernel(separations=5, cpu_seconds=None)),
        moment(10.0, kernel=kernel(separations=25, cpu_seconds=None)),
    )
    assert (found.separations, found.cpu_seconds) == (20, 0)


def test_one_moment_and_none() -> None:
    assert summed(MOMENTS[1]).mean_bytes == 300
    assert Summary().mean_bytes == 0


def test_slices_add_up_to_the_whole() -> None:
    slices = Slices(0.0, 400.0, 8)
    for it in MOMENTS:
        slices.add(it)
    filled = [it.summary for it in slices.all if it.summary.last]
    assert [it.start for it in slices.all] == [0, 50, 100, 150, 200, 250, 300, 350]
    assert [it.moments for it in filled] == [1, 1, 1]
    assert sum(it.separations for it in filled) == 50
    assert sum(it.decisions for it in filled) == 3
