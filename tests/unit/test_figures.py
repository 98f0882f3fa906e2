"""Sizes, counts and times in words, the same in tables and in the report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge import figures


@given(st.floats(0, 1e16))
def test_a_precise_size_has_three_digits(count: float) -> None:
    told = figures.precise(count)
    assert told == figures.size(count, fine=True)
    digits = told.split()[0].replace(".", "")
    assert told.endswith(" bytes") or len(digits) == 3 or count >= 999.5e12


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.421, "0.42 s"), (12, "12 s"), (600, "10 min"), (20_000, "6 h"), (200_000, "2 days")],
)
def test_durations(seconds: float, told: str) -> None:
    assert figures.duration(seconds) == told


def test_numbers() -> None:
    assert figures.number(1, "page") == "1 page"
    assert figures.number(12345, "process", "processes") == "12,345 processes"
