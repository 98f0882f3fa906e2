"""Figures and foreign text as the page writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.cli.show import words as console
from pagemerge.report import words
from tests.support import hostile
from tests.support.hostile import text_of


@given(st.floats(0, 1e16))
def test_sizes_are_those_of_the_tables(count: float) -> None:
    assert words.size(count) == console.size(count, fine=True) or count >= 999.5e12


@pytest.mark.parametrize(
    ("some", "whole", "told"),
    [(0, 5, "0%"), (1, 5000, "<0.1%"), (1, 0, "0%"), (1, 3, "33%"), (1, 30, "3.3%")],
)
def test_parts(some: float, whole: float, told: str) -> None:
    assert words.part(some, whole) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.421, "0.42 s"), (12, "12 s"), (600, "10 min"), (20_000, "6 h"), (200_000, "2 days")],
)
def test_durations(seconds: float, told: str) -> None:
    assert words.duration(seconds) == told == console.duration(seconds)


def test_lists() -> None:
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.listed(["a", "b"], 7) == "a, b and 7 more"
    assert words.number(1, "page") == "1 page"
    assert words.number(12345, "process", "processes") == "12,345 processes"


@given(hostile.text(b"").map(text_of), st.integers(12, 100))
def test_foreign_text_is_plain_and_bounded(text: str, most: int) -> None:
    for told in (words.cut(text, most), words.shortened(text, most)):
        assert told.isprintable() and 0 < len(told) <= most


def test_of_a_long_path_both_ends_are_there() -> None:
    path = "/var/lib/" + "deep/" * 1000 + "libmodel.so"
    told = words.shortened(path, 40)
    assert told.startswith("/var/lib/") and told.endswith("libmodel.so") and "…" in told
    assert words.shortened("/bin/true", 40) == "/bin/true"
