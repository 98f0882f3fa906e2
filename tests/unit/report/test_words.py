"""Figures and foreign text as the page writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.report import words
from tests.support import hostile
from tests.support.hostile import text_of


@pytest.mark.parametrize(
    ("some", "whole", "told"),
    [(0, 5, "0%"), (1, 5000, "<0.1%"), (1, 0, "0%"), (1, 3, "33%"), (1, 30, "3.3%")],
)
def test_parts(some: float, whole: float, told: str) -> None:
    assert words.part(some, whole) == told


def test_lists() -> None:
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.listed(["a", "b"], 7) == "a, b and 7 more"


@given(hostile.text(b"").map(text_of), st.integers(12, 100))
def test_foreign_text_is_plain_and_bounded(text: str, most: int) -> None:
    for told in (words.cut(text, most), words.shortened(text, most)):
        assert told.isprintable() and 0 < len(told) <= most


def test_of_a_long_path_both_ends_are_there() -> None:
    path = "/var/lib/" + "deep/" * 1000 + "libmodel.so"
    told = words.shortened(path, 40)
    assert told.startswith("/var/lib/") and told.endswith("libmodel.so") and "…" in told
    assert words.shortened("/bin/true", 40) == "/bin/true"
