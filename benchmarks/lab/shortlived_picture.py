"""Draws what ``shortlived.py`` has measured: how soon each new process was merged."""

from __future__ import annotations

from math import ceil
from typing import Any

from . import svg
from .svg import text

WIDTH, LEFT, RIGHT = 860, 200, 60
ROW, SIZE = 46, 14
GOAL = 3.0
"""Seconds."""
STYLE = """
  .ground { fill: #ffffff; } .text { fill: #1c2430; } .note { fill: #5b6675; }
  .bar { fill: #3f6fb5; } .dot { fill: #3f6fb5; fill-opacity: 0.6; }
  .lost { fill: #c2453d; } .line { stroke: #9aa5b4; }
  .goal { stroke: #2c8a57; stroke-dasharray: 4 3; }
  text { font-family: system-ui, sans-serif; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #161b22; } .text { fill: #e6edf3; } .note { fill: #9aa5b4; }
    .bar { fill: #6ea0e8; } .dot { fill: #6ea0e8; } .lost { fill: #f0857c; }
    .goal { stroke: #56c98a; }
  }
"""


def drawn(told: dict[str, Any]) -> str:
    """The picture of a run, as SVG: a dot for each new process, a bar for each window's looks."""
    heading = "Seconds from filled memory until 90% of what merging frees is freed"
    note = (
        f"A new process of {told['bytes_each'] / 1e6:.0f} MB every {told['every_seconds']:g} s, "
        f"beside {told['standing']} merged ones. Dashed: the goal."
    )
    parts = [text(20, 30, SIZE, heading, bold=True), text(20, 50, SIZE, note, "note")]
    times = [it["seconds"] for it in told["newcomers"] if it["seconds"] is not None]
    most = max(ceil(max([*times, GOAL])), 4)
    first = top = 68
    for kind in told["kinds"]:
        mine = [it["seconds"] for it in told["newcomers"] if it["late"] == kind["late"]]
        parts += _row(top, kind, mine, most)
        top += ROW
    step = max(1, most // 8)
    for second in range(0, most + 1, step):
        at = _place(second, most)
        parts.append(f'<line class="line" x1="{at}" x2="{at}" y1="{top}" y2="{top + 5}"/>')
        parts.append(text(at, top + 20, SIZE - 2, f"{second} s", "note", anchor="middle"))
    at = _place(GOAL, most)
    parts.append(f'<line class="goal" x1="{at}" x2="{at}" y1="{first}" y2="{top}"/>')
    parts.append(f'<line class="line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top}" y2="{top}"/>')
    top += 48
    words = "Pages of the standing processes that the hub reads in a minute"
    parts.append(text(20, top, SIZE, words, bold=True))
    rates = [it["pages_read"] / it["seconds"] * 60 for it in told["windows"]]
    for it, rate in zip(told["windows"], rates, strict=True):
        name = "with newcomers" if it["newcomers"] else "without newcomers"
        width = rate / max(*rates, 1) * (WIDTH - LEFT - RIGHT - 60)
        parts.append(text(LEFT - 10, top + 27, SIZE, name, anchor="end"))
        parts.append(
            f'<rect class="bar" x="{LEFT}" y="{top + 14}" width="{width:.1f}" height="16" rx="3"/>'
        )
        parts.append(text(LEFT + width + 8, top + 27, SIZE, f"{rate:,.0f}"))
        top += 26
    return svg.picture(WIDTH, top + 28, STYLE, heading, parts)


def _row(top: int, kind: dict[str, Any], times: list[float | None], most: int) -> list[str]:
    """The dots of one kind of new processes; those that were never merged stand at the right."""
    name = f"filled {kind['late']:g} s later" if kind["late"] else "filled at once"
    parts = [text(LEFT - 10, top + 26, SIZE, name, anchor="end")]
    for number, seconds in enumerate(times):
        base = top + 12 + number % 5 * 6
        ink, place = ("lost", most) if seconds is None else ("dot", seconds)
        parts.append(f'<circle class="{ink}" cx="{_place(place, most)}" cy="{base}" r="4"/>')
    return parts


def _place(seconds: float, most: int) -> float:
    """Where a time lies, in the width."""
    return round(LEFT + seconds / most * (WIDTH - LEFT - RIGHT), 1)
