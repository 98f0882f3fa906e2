"""Draws what ``scale.py`` has measured: costs over the memory and over the number of clients."""

from __future__ import annotations

from math import log2
from typing import Any

from . import svg
from .svg import text

WIDTH, HEIGHT = 860, 560
PANEL_WIDTH, PANEL_HEIGHT = 320, 150
LEFTS, TOPS = (90, 500), (100, 350)
SIZE = 14
STYLE = """
  .ground { fill: #ffffff; } .text { fill: #1c2430; } .note { fill: #5b6675; }
  .line { stroke: #9aa5b4; } .one, .two { fill: none; stroke-width: 2; }
  .one { stroke: #3f6fb5; } .two { stroke: #2c8a57; }
  .ones { fill: #3f6fb5; } .twos { fill: #2c8a57; }
  text { font-family: system-ui, sans-serif; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #161b22; } .text { fill: #e6edf3; } .note { fill: #9aa5b4; }
    .one { stroke: #6ea0e8; } .two { stroke: #56c98a; }
    .ones { fill: #6ea0e8; } .twos { fill: #56c98a; }
  }
"""
INKS = {1: "one", 2: "two"}
COSTS = {
    "processor time, us a merged page": ("hub_us_a_page", "agents_us_a_page"),
    "a cycle when all is merged, ms": ("cycle_ms",),
}
"""Title of a panel -> the figures whose sum it shows."""
Point = tuple[float, float]


def drawn(rows: list[dict[str, Any]], clients: int, gbytes: int) -> str:
    """The picture of a run, as SVG: four panels, with a curve for each number of cores.

    ``clients``: while the memory grows; ``gbytes``: while the number of clients grows.
    """
    heading = "Cost of the user engine, as memory and clients grow"
    parts = [text(20, 30, SIZE, heading, bold=True)]
    legend = (("ones", 20, "one core"), ("twos", 120, "two cores"))
    for ink, left, words in legend:
        parts.append(f'<rect class="{ink}" x="{left}" y="42" width="12" height="12" rx="2"/>')
        parts.append(text(left + 18, 53, SIZE - 2, words, "note"))
    over = (
        (f"GB in {clients} processes", "gbytes", [it for it in rows if it["clients"] == clients]),
        (
            f"processes with {gbytes} GB in all",
            "clients",
            [it for it in rows if it["gbytes"] == gbytes],
        ),
    )
    for (title, names), top in zip(COSTS.items(), TOPS, strict=True):
        most = _round(max((_sum(it, names) for it in rows), default=1.0))
        for (axis, name, some), left in zip(over, LEFTS, strict=True):
            curves = {
                cores: sorted((it[name], _sum(it, names)) for it in some if it["cores"] == cores)
                for cores in INKS
            }
            parts += _panel(left, top, title, axis, most, curves)
    return svg.picture(WIDTH, HEIGHT, STYLE, heading, parts)


def _panel(
    left: int, top: int, title: str, axis: str, most: float, curves: dict[int, list[Point]]
) -> list[str]:
    """One panel: powers of two to the right, from 0 to ``most`` upwards."""
    base = top + PANEL_HEIGHT
    ticks = sorted({at for points in curves.values() for at, _ in points})
    if not ticks:
        return []
    span = max(log2(ticks[-1] / ticks[0]), 1.0)

    def place(at: float, height: float) -> Point:
        right = left + log2(at / ticks[0]) / span * PANEL_WIDTH
        return round(right, 1), round(base - height / most * PANEL_HEIGHT, 1)

    parts = [
        text(left - 60, top - 14, SIZE - 1, title, bold=True),
        text(left + PANEL_WIDTH / 2, base + 38, SIZE - 2, axis, "note", anchor="middle"),
        f'<line class="line" x1="{left}" x2="{left + PANEL_WIDTH}" y1="{base}" y2="{base}"/>',
        f'<line class="line" x1="{left}" x2="{left}" y1="{top}" y2="{base}"/>',
    ]
    for part in (0.0, 0.5, 1.0):
        _, at = place(ticks[0], part * most)
        parts.append(
            text(left - 8, int(at) + 4, SIZE - 2, f"{part * most:g}", "note", anchor="end")
        )
    for tick in ticks:
        at, _ = place(tick, 0)
        parts.append(text(at, base + 18, SIZE - 2, f"{tick:g}", "note", anchor="middle"))
    for cores, points in curves.items():
        places = [place(*point) for point in points]
        ink = INKS[cores]
        corners = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline class="{ink}" points="{corners}"/>')
        parts += [f'<circle class="{ink}s" cx="{x}" cy="{y}" r="3.5"/>' for x, y in places]
    return parts


def _sum(row: dict[str, Any], names: tuple[str, ...]) -> float:
    return float(sum(row[name] for name in names))


def _round(value: float) -> float:
    """Return the next number of 1, 2, 4, 5 or 10 times a power of ten."""
    step = 10.0 ** (len(str(int(max(value, 1)))) - 1)
    return next(step * it for it in (1, 2, 4, 5, 10) if step * it >= value)
