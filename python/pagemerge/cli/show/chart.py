"""Draws a figure over time with characters: columns of blocks, an axis for bytes, one for time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pagemerge.figures import size

BLOCKS = " ▁▂▃▄▅▆▇█"
"""Parts of a cell, in eighths."""
ASCII = "    #####"
"""The same for a terminal or a file that has no blocks."""
HEIGHT = 10
MARGIN = 11
"""Columns left of the chart: a size, and the axis."""


def chart(
    values: Sequence[float | None],
    since: float,
    until: float,
    *,
    encoding: str = "utf-8",
) -> list[str]:
    """Draw ``values`` (bytes; None: not known), one column each, as lines of text.

    ``since`` and ``until``: Unix time in seconds of the first and the last column.
    """
    try:
        "█│└─".encode(encoding)
        blocks, wall, corner, floor = BLOCKS, "│", "└", "─"
    except (UnicodeEncodeError, LookupError):
        blocks, wall, corner, floor = ASCII, "|", "+", "-"
    top = max([1.0, *(it for it in values if it is not None)])
    eighths = [None if it is None else round(8 * HEIGHT * max(it, 0) / top) for it in values]
    lines = []
    for row in reversed(range(HEIGHT)):
        cells = (" " if it is None else blocks[min(max(it - 8 * row, 0), 8)] for it in eighths)
        label = size(top * (row + 1) / HEIGHT) if row in (HEIGHT - 1, HEIGHT // 2 - 1) else ""
        lines.append(f"{label:>{MARGIN - 2}} {wall}{''.join(cells)}".rstrip())
    lines.append(f"{size(0):>{MARGIN - 2}} {corner}{floor * len(values)}")
    lines.append(" " * MARGIN + _times(since, until, len(values)))
    return lines


def clock(seconds: float, spread: float) -> str:
    """Write a local time; with its date if the times shown spread over more than a day."""
    form = "%H:%M:%S" if spread < 600 else "%H:%M" if spread <= 86400 else "%b %d %H:%M"
    return time.strftime(form, time.localtime(seconds))


def _times(since: float, until: float, width: int) -> str:
    """Write the times of the first, the middle and the last column below them."""
    spread = until - since
    first, middle, last = (clock(since + spread * part, spread) for part in (0, 0.5, 1))
    if width < len(first) + len(middle) + len(last) + 4:
        return f"{first}{last:>{max(width - len(first), len(last) + 1)}}"
    line = first.ljust((width - len(middle)) // 2) + middle
    return line.ljust(width - len(last)) + last
