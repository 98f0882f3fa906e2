"""The scanner agrees with ``tomllib`` about the keys of a document, and knows their lines."""

from __future__ import annotations

import re
import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.settings.source import MOST_DEPTH, Excess, Path, scan
from tests.support.toml import TOKENS, documents, paths


@given(st.lists(st.sampled_from(TOKENS), max_size=40).map("".join))
def test_it_finds_the_keys_that_tomllib_finds(text: str) -> None:
    text = text.replace("\r\n", "\n")
    try:
        expected = paths(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        scan(text)  # raises nothing else
        return
    found = scan(text)
    assert not re.sub(r"(#.*)?\n|[ \t]|#.*$", "", text[found.end :])
    assert {(), *found.lines} == expected


@given(documents())
def test_lines_are_right(document: tuple[str, dict[Path, int]]) -> None:
    text, lines = document
    found = scan(text)
    assert found.lines == lines
    assert {(), *lines} == paths(tomllib.loads(text))
    assert [it.first for it in found.statements if not it.header] == [0] * sum(
        not it.header for it in found.statements
    )


def test_it_knows_the_line_of_what_is_missing() -> None:
    found = scan("a = 1\n[[r]]\nx = 1\n\n[[r]]\n")
    assert found.place(("r", 1, "x")) == 5
    assert found.place(("r", 0, "x")) == 3
    assert found.place(("z",)) == found.place(()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * (MOST_DEPTH + 2),
        "a = " + "{a = " * (MOST_DEPTH + 2),
        ".".join("a" * (MOST_DEPTH + 2)) + " = 1",
        "[" + ".".join("a" * 100_000) + "]",
        "a = " + "9" * 5000,
    ],
)
def test_what_costs_tomllib_too_much_is_refused(text: str) -> None:
    with pytest.raises(Excess) as raised:
        scan("\n" + text)
    assert raised.value.at > 0


STARTS = ['"', "'", '"""', "'''", "[", "{", "a", "#", "\\", '"\\', " ", "a.", '"a" = "']


@pytest.mark.parametrize("text", STARTS)
def test_the_time_grows_with_the_length_only(text: str) -> None:
    times = []
    for size in (20_000, 200_000):
        start = time.process_time()
        try:
            scan("a = " + text * (size // len(text)))
        except Excess:
            return
        times.append(time.process_time() - start)
    assert times[1] < 30 * max(times[0], 0.02)
