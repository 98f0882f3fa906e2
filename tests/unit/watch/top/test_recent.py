"""What is remembered of moments: rates, the chart's points, the governor's decisions."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pagemerge.watch.model import Host, Moment, Row
from pagemerge.watch.top.recent import DECISIONS, POINTS, WINDOW, Recent
from tests.support.moments import BEGIN, recording

PID = 1237


def row(moment: Moment, pid: int = PID) -> Row:
    return next(it for it in moment.rows if it.pid == pid)


def separated(counts: dict[float, int]) -> Recent:
    """Moments at which process ``PID`` had that many separations."""
    first = recording(1)[0]
    return Recent(
        replace(
            first,
            time=BEGIN + at,
            rows=(replace(row(first), separations=count),),
        )
        for at, count in counts.items()
    )


def unsharing(recent: Recent) -> float | None:
    assert recent.moment is not None
    return recent.unsharing(row(recent.moment))


def test_one_moment_tells_no_rate() -> None:
    recent = separated({0: 500})
    assert unsharing(recent) is None
    assert recent.rates.user_cores is None


def test_rates_are_per_second_of_the_moments_and_over_the_window() -> None:
    assert unsharing(separated({0: 0, 2: 50})) == 25
    # A burst counts as long as it is in the window, and not after that.
    assert unsharing(separated({0: 0, 1: 100, 5: 100})) == 20
    assert unsharing(separated({0: 0, 1: 100, 2: 100, 2 + WINDOW: 100})) == 0


def test_a_counter_that_began_anew_tells_no_rate() -> None:
    assert unsharing(separated({0: 500, 1: 20})) is None


def test_a_clock_that_was_set_back_tells_no_rate_at_first() -> None:
    assert unsharing(separated({100: 10, 0: 20})) is None
    assert unsharing(separated({100: 10, 0: 20, 1: 30})) == 10


def test_the_same_moment_again_changes_nothing() -> None:
    moments = recording(5)
    recent, again = Recent(moments), Recent([*moments, moments[-1]])
    assert unsharing(recent) == unsharing(again) is not None
    assert recent.points == again.points


def test_the_engines_cost_is_that_of_now() -> None:
    rates = Recent(recording()).rates
    assert rates.user_cores == pytest.approx(0.012)
    assert rates.kernel_cores == pytest.approx(0.21)
    assert rates.kernel_separations == pytest.approx(40)


def test_points_have_memory_in_use_and_a_gap_where_it_is_not_told() -> None:
    moments = recording(3)
    moments[1] = replace(moments[1], host=Host(10**9))
    recent = Recent(moments)
    used = [point.used_bytes for point in recent.points]
    assert used[1] is None and used[0] is not None and used[2] is not None
    host = moments[2].host
    assert host.available_bytes is not None
    assert used[2] == host.total_bytes - host.available_bytes
    assert [point.saved_bytes for point in recent.points] == [it.saved_bytes for it in moments]


def test_what_is_kept_is_bounded() -> None:
    first = recording(4, 1)[3]
    assert first.decisions
    recent = Recent(replace(first, time=BEGIN + at) for at in range(POINTS + 100))
    assert len(recent.points) == POINTS
    assert len(recent.decisions) == DECISIONS
