"""The live view under a pilot: no terminal, real keys, and the text that is on the screen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from textual.pilot import Pilot

from pagemerge.watch.model import Moment
from pagemerge.watch.top.app import Top
from pagemerge.watch.top.table import Table

DEADLINE = 60.0
ONCE = 3600.0
"""A pace at which a test sees one moment only, unless it asks for more."""

Script = Callable[["Pilot[None]"], Awaitable[None]]


def view(moments: list[Moment], **options: Any) -> Top:
    """A view that begins with moments, and is then given the last of them again."""
    last = moments[-1]
    return Top(lambda: last, ONCE, past=moments[:-1], **options)


def drive(app: Top, script: Script, size: tuple[int, int] = (80, 24)) -> None:
    """Run a view, and what the script does with it; its faults are raised here."""

    async def run() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            await settled(pilot)
            await script(pilot)

    asyncio.run(run())


async def settled(pilot: Pilot[None]) -> None:
    """Wait until the view has shown the answer of its source."""
    await until(pilot, lambda: top(pilot).answers > 0 or bool(top(pilot)._trouble))
    await pilot.pause()


async def until(pilot: Pilot[None], done: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < end, lines(pilot)
        await pilot.pause(0.01)


def top(pilot: Pilot[None]) -> Top:
    """The view itself."""
    assert isinstance(pilot.app, Top)
    return pilot.app


def table(pilot: Pilot[None]) -> Table:
    """Its table."""
    return pilot.app.screen_stack[0].query_one(Table)


def lines(pilot: Pilot[None]) -> list[str]:
    """The text of each line of the screen, as wide as the screen."""
    return [strip.text for strip in pilot.app.screen._compositor.render_strips()]


def text(pilot: Pilot[None]) -> str:
    """All that is on the screen."""
    return "\n".join(lines(pilot))


def rows(pilot: Pilot[None]) -> list[str]:
    """The lines of the table that are on the screen, without the titles."""
    shown = table(pilot)
    found = [shown.render_line(y).text for y in range(1, shown.size.height)]
    return [line.strip() for line in found if line.strip()]
