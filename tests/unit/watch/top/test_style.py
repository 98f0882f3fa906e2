"""The theme fits the terminal, and the chart and the bars have the height of their figures."""

from __future__ import annotations

import pytest

from pagemerge.watch.top import style
from pagemerge.watch.top.chart import drawn, rounded
from pagemerge.watch.top.columns import bar, chosen


@pytest.mark.parametrize(
    ("environment", "colors", "theme"),
    [
        ({}, "256", "textual-dark"),
        ({}, "truecolor", "textual-dark"),
        ({}, "standard", "ansi-dark"),
        ({}, None, "ansi-dark"),
        ({"COLORFGBG": "0;15"}, "256", "textual-light"),
        ({"COLORFGBG": "0;default;15"}, "standard", "ansi-light"),
        ({"COLORFGBG": "15;0"}, "256", "textual-dark"),
        ({"COLORFGBG": "nonsense"}, "256", "textual-dark"),
        ({"TEXTUAL_THEME": "nord", "COLORFGBG": "0;15"}, "256", "nord"),
    ],
)
def test_the_theme_fits_the_terminal(
    environment: dict[str, str], colors: str | None, theme: str
) -> None:
    assert style.theme(environment, colors) == theme


def test_the_other_theme_has_the_same_colors() -> None:
    for themes in (style.THEMES, style.FEW_COLORS):
        for name in themes.values():
            assert style.other(name) in themes.values()
            assert style.other(style.other(name)) == name != style.other(name)
    assert style.other("nord") == "textual-light"


def test_a_chart_fills_from_below_and_from_the_right() -> None:
    assert drawn([0, 50, 100], 100, 5, 2) == ["    █", "   ██"]
    assert drawn([100] * 9, 100, 4, 1) == ["████"]
    assert drawn([25, 75, None], 100, 3, 2) == [" ▄ ", "▄█ "]
    assert drawn([], 100, 3, 1) == ["   "]
    assert drawn([1, 0, 10**12], 10**9, 3, 2) == ["  █", "▁ █"]  # a little is seen, too much fits
    assert drawn([5], 0, 2, 1) == ["  "]


def test_the_scale_is_a_round_number_that_everything_fits_under() -> None:
    assert [rounded(value) for value in (0, 1, 999_999)] == [10**6] * 3
    assert rounded(1_000_001) == 2 * 10**6
    assert rounded(2.1e9) == 5e9 and rounded(5.1e9) == 1e10 and rounded(1e10) == 1e10
    for value in (10**n + d for n in range(6, 18) for d in (-1, 0, 1)):
        assert value <= rounded(value) <= 10 * value + 10**6


def test_a_bar_has_the_length_of_its_part() -> None:
    assert bar(0.5, 4) == "██  "
    assert bar(0, 4) == "    " and bar(1, 4) == bar(2, 4) == "████"
    assert bar(0.0001, 4) == "▏   "


def test_narrow_tables_have_fewer_columns_and_keep_the_saving() -> None:
    counts = [len(chosen("process", width)) for width in range(20, 140)]
    assert counts == sorted(counts) and counts[0] == 3 and counts[-1] == 11
    assert chosen("process", 20)[0].title == "SAVED"
    assert "USER" not in [column.title for column in chosen("user", 140)]
