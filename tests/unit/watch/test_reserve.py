"""Would memory be left if merged pages were written? From moments made by hand."""

from __future__ import annotations

import pytest

from pagemerge.model import PAGE_SIZE
from pagemerge.watch.model import Host
from pagemerge.watch.reserve import (
    REACTION,
    REMEMBERED,
    WINDOW,
    Reserve,
    Unsharing,
    pages_per_second,
    reserve,
)
from tests.unit.watch.moments import GIB, kernel, moment, user


def test_both_engines_count() -> None:
    before = moment(10.0, user=user(separations=0), kernel=kernel(separations=100))
    now = moment(20.0, user=user(separations=50), kernel=kernel(separations=400))
    assert pages_per_second(before, now) == 35.0


@pytest.mark.parametrize(
    ("available", "saved", "fastest", "wanted", "state"),
    [
        (8 * GIB, GIB, 0.0, 0, "OK"),
        (8 * GIB, 9 * GIB, 0.0, 0, "WARNING"),
        (8 * GIB, 7 * GIB, 0.0, 2 * GIB, "WARNING"),
        (8 * GIB, 7 * GIB, 6 * GIB / REACTION / PAGE_SIZE, 3 * GIB, "CRITICAL"),
        (GIB, 0, 0.0, 2 * GIB, "CRITICAL"),
        (8 * GIB, 6 * GIB, 1e9, 2 * GIB, "OK"),
    ],
    ids=["fits", "worst", "worst and reserve", "burst", "gone already", "no more than is saved"],
)
def test_states(available: int, saved: int, fastest: float, wanted: int, state: str) -> None:
    now = moment(host=Host(16 * GIB, available), user=user(saved_bytes=saved))
    found = reserve(now, fastest, wanted)
    assert found is not None
    assert found.state == state
    assert found.burst_bytes <= saved


def test_figures() -> None:
    found = Reserve(100, burst_bytes=30, saved_bytes=70, wanted_bytes=40)
    assert (found.after_burst_bytes, found.at_worst_bytes, found.state) == (70, 30, "WARNING")


def test_a_host_that_does_not_tell() -> None:
    assert reserve(moment(host=Host(16 * GIB, None)), 0.0) is None


def steps(rates: list[tuple[float, float]]) -> Unsharing:
    """Seconds and pages per second, one after the other, a moment every second."""
    found, time, pages = Unsharing(), 0.0, 0.0
    found.add(moment(time, kernel=kernel(separations=0)))
    for seconds, rate in rates:
        for _ in range(int(seconds)):
            time, pages = time + 1, pages + rate
            found.add(moment(time, kernel=kernel(separations=int(pages))))
    return found


def test_the_fastest_minute_is_remembered() -> None:
    assert Unsharing().fastest == 0.0
    assert steps([(300, 10)]).fastest == pytest.approx(10, rel=0.01)
    assert steps([(300, 10), (WINDOW, 100), (600, 1)]).fastest == pytest.approx(100, rel=0.01)


def test_a_short_burst_counts_by_its_part_of_a_minute() -> None:
    assert steps([(300, 0), (6, 1000), (300, 0)]).fastest == pytest.approx(100, rel=0.05)


def test_it_is_forgotten_after_a_day() -> None:
    found = steps([(100, 50)])
    end = 100 + REMEMBERED
    for at in (end / 2, end - 10, end + WINDOW):
        found.add(moment(at, kernel=kernel(separations=5000)))
    assert found.fastest < 1
