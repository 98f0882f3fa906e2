"""A chart of blocks: one column for each moment, the newest one at the right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from textual.content import Content
from textual.widget import Widget

from pagemerge.figures import duration, size
from pagemerge.watch.top.recent import Point

LEVELS = " ▁▂▃▄▅▆▇█"
"""An empty cell to a full one, by eighths, from below."""


class Picture(NamedTuple):
    """What a chart shows at one moment."""

    title: str
    values: Sequence[float | None]
    """One for each moment, oldest first, 0 or more; None is a gap."""
    top: float
    """The value that fills the chart."""
    seconds: float
    """Seconds from the first to the last value that is shown."""


def drawn(values: Sequence[float | None], top: float, width: int, height: int) -> list[str]:
    """Draw the last ``width`` values in ``height`` lines, the highest line first.

    A value of more than 0 has at least the lowest block, so that it can be seen.
    """
    heights = [_eighths(value, top, height) for value in values[-width:]]
    empty = " " * (width - len(heights))
    return [
        empty + "".join(LEVELS[min(max(it - 8 * line, 0), 8)] for it in heights)
        for line in reversed(range(height))
    ]


def _eighths(value: float | None, top: float, height: int) -> int:
    if not value or value <= 0 or top <= 0:
        return 0
    return min(max(round(value / top * height * 8), 1), height * 8)


def memory(points: Sequence[Point], width: int, total_bytes: int) -> Picture:
    """Make the picture of the host's memory; all of the memory fills the chart."""
    shown = points[-width:]
    used = [point.used_bytes for point in shown]
    now = used[-1] if used else None
    title = f"Memory: {'?' if now is None else size(now)} of {size(total_bytes)}"
    return Picture(title, used, total_bytes, _seconds(shown))


def saving(points: Sequence[Point], width: int) -> Picture:
    """Make the picture of what merging saves; the scale fits the highest value that is shown."""
    shown = points[-width:]
    saved = [point.saved_bytes for point in shown]
    top = rounded(max(saved, default=0))
    title = f"Saved: {size(saved[-1]) if saved else '?'}, scale {size(top).replace('.0 ', ' ')}"
    return Picture(title, saved, top, _seconds(shown))


def rounded(value: float) -> float:
    """Round up to 1, 2, 5 or 10 times a power of ten, from 1 MB on."""
    power: float = 10 ** max(math.floor(math.log10(max(value, 1))), 6)
    return next(step * power for step in (1, 2, 5, 10, 20) if value <= step * power)


def _seconds(shown: Sequence[Point]) -> float:
    return max(shown[-1].time - shown[0].time, 0.0) if shown else 0.0


class Chart(Widget):
    """Draws a picture as wide and as high as it is: the title in the first line."""

    def __init__(self, picture: Callable[[int], Picture | None], color: str, id: str) -> None:
        super().__init__(id=id)
        self._picture, self._color = picture, color

    def render(self) -> Content:
        """Draw what the picture is now."""
        width, height = self.size.width, self.size.height - 1
        picture = self._picture(width) if width > 0 and height > 0 else None
        if picture is None:
            return Content("")
        span = f"last {duration(picture.seconds)}" if picture.seconds >= 10 else ""
        room = width - len(picture.title) - len(span)
        title = picture.title + (" " * room + span if room > 1 else "")
        lines = drawn(picture.values, picture.top, width, height)
        parts: list[Content] = [Content.styled(title[:width], "bold")]
        parts += [Content.styled(line, self._color) for line in lines]
        return Content("\n").join(parts)
