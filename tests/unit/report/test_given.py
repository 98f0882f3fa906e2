"""Figures are read, and what is no figure reads as nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pagemerge.report.given import MOST, Given, Room, page_size


@pytest.mark.parametrize(
    "value", [None, True, "7", [7], {"a": 7}, math.nan, -3, -math.inf, -(10**400)]
)
def test_no_figure_reads_as_nothing(value: Any) -> None:
    assert Given({"it": value}).number("it") == 0
    assert Given({"it": value}).count("it") == 0


def test_figures_are_bounded() -> None:
    for value in (10**400, math.inf, 1e300):
        assert Given({"it": value}).number("it") == MOST
    assert Given({"it": 2.5}).number("it") == 2.5
    assert Given({"it": 2.6}).count("it") == 3


def test_known_tells_nothing_from_zero() -> None:
    found = Given({"zero": 0, "none": None})
    assert found.known("zero") == 0
    assert found.known("none") is None and found.known("missing") is None


@pytest.mark.parametrize("value", [None, 7, "text", [1, "a", None], {"a": 1}])
def test_a_part_of_another_shape_is_empty(value: Any) -> None:
    found = Given({"it": value})
    assert not found.parts("it")
    assert not list(found.part("it").named())
    assert found.raw("it") == (value if isinstance(value, str) else "")
    assert found.texts("it") == (["a"] if isinstance(value, list) else [])
    assert not Given(value if not isinstance(value, dict) else None)


def test_counts_are_sorted_and_there() -> None:
    found = Given({"it": {"a": 1, "b": 5, "c": 0, "d": "x", 7: 9}})
    assert found.counts("it") == [("b", 5), ("a", 1)]


def test_the_page_size_is_the_figures_or_ours() -> None:
    assert page_size(Given({"page_size": 16384})) == 16384
    assert page_size(Given({"page_size": None})) == 4096


def test_room_shrinks_to_an_end() -> None:
    room, steps = Room(), 0
    while room != room.halved():
        assert room.rows >= room.halved().rows >= 1
        room, steps = room.halved(), steps + 1
    assert steps < 12
