"""Pictures of the view, compared with those in ``__snapshots__``, which people have looked at.

``pytest tests/unit/watch/top/test_pictures.py --snapshot-update`` replaces them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from textual.pilot import Pilot

from pagemerge.watch.top import style
from tests.support.driving import settled, top, view
from tests.support.moments import recording

Compare = Callable[..., bool]
MOMENTS = recording()
SIZES = {"usual": (80, 24), "large": (120, 40), "small": (60, 15)}


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The view writes local times."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("theme", style.THEMES.values())
@pytest.mark.parametrize("size", ["usual", "large"])
def test_the_view(snap_compare: Compare, size: str, theme: str) -> None:
    assert compared(snap_compare, size, theme)


def test_the_view_in_a_small_terminal(snap_compare: Compare) -> None:
    assert compared(snap_compare, "small", "textual-dark", "end")


def test_the_view_in_16_colors(snap_compare: Compare) -> None:
    assert compared(snap_compare, "usual", "ansi-dark", "down", "down")


def test_groups_and_why_they_merge_nothing(snap_compare: Compare) -> None:
    assert compared(snap_compare, "usual", "textual-light", "g", "end")


def test_the_filter(snap_compare: Compare) -> None:
    assert compared(snap_compare, "usual", "textual-dark", "slash", "v", "m", "enter")


def test_the_help(snap_compare: Compare) -> None:
    assert compared(snap_compare, "usual", "textual-dark", "question_mark")


def compared(compare: Compare, size: str, theme: str, *keys: str) -> bool:
    """Does the view look as it did, after these keys?"""

    async def before(pilot: Pilot[None]) -> None:
        top(pilot).theme = theme
        await settled(pilot)
        await pilot.press(*keys)
        await pilot.pause()

    app = view(MOMENTS, recorded=True)
    return compare(app, terminal_size=SIZES[size], run_before=before)
