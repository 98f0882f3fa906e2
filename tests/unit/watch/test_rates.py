"""What happens in a second, between two moments."""

from __future__ import annotations

import pytest

from pagemerge.watch.rates import Rates, row_separations
from tests.unit.watch.moments import kernel, moment, row, user


def test_costs_and_unsharing_are_those_between_the_moments() -> None:
    before = moment(10.0, user=user(separations=5), kernel=kernel(separations=1000))
    now = moment(
        12.0,
        user=user(cpu_seconds=2.5, separations=25),
        kernel=kernel(cpu_seconds=5.2, separations=1300),
    )
    rates = Rates.between(before, now)
    assert (rates.seconds, rates.user_cores, rates.user_separations) == (2.0, 0.25, 10.0)
    assert rates.kernel_cores == pytest.approx(0.1)
    assert rates.kernel_separations == 150.0


def test_what_one_of_them_does_not_tell_is_unknown() -> None:
    without = moment(10.0)
    assert Rates.between(without, moment(11.0, user=user())) == Rates(1.0)
    hidden = moment(10.0, kernel=kernel(cpu_seconds=None, separations=None))
    assert Rates.between(hidden, moment(11.0, kernel=kernel())) == Rates(1.0)
    another = moment(11.0, user=user(hub_pid=8, cpu_seconds=0.1))
    assert Rates.between(moment(10.0, user=user()), another) == Rates(1.0)


def test_a_clock_that_goes_back_gives_no_rates() -> None:
    assert Rates.between(moment(10.0, user=user()), moment(9.0, user=user())) == Rates(0.0)
    assert row_separations(moment(10.0, rows=(row(1),)), moment(10.0, rows=(row(1),))) == {}


def test_clients_that_leave_do_not_make_a_rate_negative() -> None:
    before = moment(10.0, user=user(separations=50))
    assert Rates.between(before, moment(11.0, user=user(separations=20))).user_separations == 0


def test_rows_are_compared_by_process() -> None:
    before = moment(10.0, rows=(row(1, separations=5), row(2), row(3, separations=None)))
    now = moment(12.0, rows=(row(1, separations=25), row(3), row(4)))
    assert row_separations(before, now) == {1: 10.0}
