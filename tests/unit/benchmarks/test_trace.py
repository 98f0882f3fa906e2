"""What the benchmark of policies reckons from its samples, and its steps in time."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from benchmarks.lab.play import LENGTH, STEPS, TENANTS, Workload
from benchmarks.lab.trace import byte_seconds, pressure, reaches

CURVE = [(0.0, 0), (1.0, 0), (2.0, 100), (4.0, 100), (5.0, 40), (6.0, 100), (7.0, 100)]


def test_byte_seconds_are_the_area_under_the_curve() -> None:
    assert byte_seconds(CURVE) == 0 + 50 + 200 + 70 + 70 + 100
    assert byte_seconds([]) == byte_seconds([(3.0, 9)]) == 0


@pytest.mark.parametrize(
    ("goal", "begin", "end", "seconds"),
    [
        (90, 1.0, 5.0, 1.0),
        (90, 1.0, 7.5, 5.0),  # it was lost again at 5, and came back at 6
        (30, 1.0, 7.5, 1.0),
        (90, 2.0, 5.0, 0.0),  # it was there
        (90, 0.0, 2.0, None),  # not before the end
        (90, 3.0, 5.5, None),  # not kept to the end
        (90, 8.0, 9.0, None),  # there is no sample
    ],
)
def test_a_goal_is_reached_when_it_is_kept(
    goal: int, begin: float, end: float, seconds: float | None
) -> None:
    assert reaches(CURVE, goal, begin, end) == seconds


def test_pressure_is_none_where_the_kernel_tells_none(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    assert pressure(path) is None
    path.write_text("some avg10=1.25 avg60=0.50 avg300=0.10 total=7\nfull avg10=0.00 avg60=0.00\n")
    assert pressure(path) == 1.25


def test_a_tenant_is_asked_only_when_it_has_done_what_it_was_asked() -> None:
    for who in range(TENANTS):
        steps = [step for step in Workload.of(1).steps if who in step.who]
        assert [step.do for step in steps if step.do != "rewrite"] == [
            "arrive",
            "change",
            "check",
            "leave",
        ]
        for step, following in itertools.pairwise(steps):
            assert step.at + step.seconds <= following.at


def test_a_short_workload_has_the_same_steps() -> None:
    short = Workload.of(1, LENGTH / 10)
    assert [(step.do, step.who) for step in short.steps] == [
        (step.do, step.who) for step in sorted(STEPS, key=lambda it: it.at)
    ]
    assert short.steps[-1].at == pytest.approx(max(it.at for it in STEPS) / 10)
    assert all(step.at + step.seconds <= short.length for step in short.steps)
    # Something to merge comes while nobody has left, and has some time.
    assert all(end - step.at > 1 for step, end in short.windows())
