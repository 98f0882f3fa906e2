"""Draws what ``neighbours.py`` has measured: p99, or the rate of answers, over that of nobody."""

from __future__ import annotations

from typing import Any

from . import svg
from .svg import text

WIDTH, LEFT, RIGHT = 860, 190, 60
ROW, HEAD, SIZE = 26, 34, 14
MOST, MOST_CLOSED = 10.0, 1.5
"""The largest ratio that is drawn, of p99 and of the rate; a longer interval ends there."""
GOALS = {"redis": 1.10, "http": 1.10, "inside": 1.25}
NAMES = {
    "redis": "redis-server beside the merging",
    "http": "a Python HTTP service beside the merging",
    "inside": "the same service in a process that is merged",
}
STYLE = """
  .ground { fill: #ffffff; } .text { fill: #1c2430; } .note { fill: #5b6675; }
  .bar { fill: #3f6fb5; } .within { fill: #2c8a57; } .span { stroke: #1c2430; }
  .line { stroke: #9aa5b4; } .goal { stroke: #2c8a57; stroke-dasharray: 4 3; }
  text { font-family: system-ui, sans-serif; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #161b22; } .text { fill: #e6edf3; } .note { fill: #9aa5b4; }
    .bar { fill: #6ea0e8; } .within { fill: #56c98a; } .span { stroke: #e6edf3; }
  }
"""


def drawn(told: dict[str, Any]) -> str:
    """The picture of a run, as SVG: a bar for each engine, and the interval of its ratio."""
    closed = told["closed"]
    what, most = ("rate_ratio", MOST_CLOSED) if closed else ("p99_us_ratio", MOST)
    heading = "99th percentile of the time of a request, over that without merging"
    if closed:
        heading = "Requests a second that are answered, over those without merging"
    parts, top = [], 64
    memory = f"{told['bytes'] / 1e9:.1f} GB in {told['processes']} processes"
    note = f"{memory}, {told['cores']} cores." + ("" if closed else " Dashed: the goal.")
    parts.append(text(20, 30, SIZE, heading, bold=True))
    parts.append(text(20, 50, SIZE, note, "note"))
    for service in dict.fromkeys(it["service"] for it in told["compared"]):
        rows = [it for it in told["compared"] if it["service"] == service]
        rows = [it for it in rows if it["engine"] != "nobody" and it[what]]
        top += HEAD
        parts.append(text(20, top - 8, SIZE, NAMES[service], bold=True))
        first = top
        for it in rows:
            parts += _row(top, it["engine"], it[what], most, None if closed else GOALS[service])
            top += ROW
        for kind, ratio in (
            (("line", 1.0),) if closed else (("line", 1.0), ("goal", GOALS[service]))
        ):
            at = _place(ratio, most)
            parts.append(f'<line class="{kind}" x1="{at}" x2="{at}" y1="{first}" y2="{top}"/>')
    height = top + 24
    return svg.picture(WIDTH, height, STYLE, heading, parts)


def _row(top: int, engine: str, found: list[float], most: float, goal: float | None) -> list[str]:
    """The bar of an engine, its interval and its figure; ``found``: the ratio and its interval."""
    ratio, *span = found
    kind = "within" if goal and ratio <= goal else "bar"
    start, width = _place(0, most), _place(ratio, most) - _place(0, most)
    parts = [
        text(LEFT - 10, top + 17, SIZE, engine, anchor="end"),
        f'<rect class="{kind}" x="{start}" y="{top + 5}" width="{width:.1f}" height="16" rx="3"/>',
    ]
    if span:
        low, high = (_place(it, most) for it in span)
        parts.append(f'<line class="span" x1="{low}" x2="{high}" y1="{top + 13}" y2="{top + 13}"/>')
    behind = max(_place(it, most) for it in (ratio, *span[1:]))
    parts.append(text(behind + 8, top + 17, SIZE, f"{ratio:.2f}"))
    return parts


def _place(ratio: float, most: float) -> float:
    """Where a ratio lies, in the width."""
    return round(LEFT + min(ratio, most) / most * (WIDTH - LEFT - RIGHT), 1)
