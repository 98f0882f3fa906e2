"""Draws what ``frontier.py`` has measured: memory saved over time, against processor time."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, log10
from typing import Any

from . import svg
from .equal_cost import BASE
from .svg import text

WIDTH, LEFT, RIGHT = 880, 70, 40
HEAD, PANEL, BETWEEN = 92, 300, 96
SIZE, WIDE = 14, 8.0
"""Of a letter: its height, and its width on average."""
LEAST = 0.01
"""Processor seconds at which the scale begins at the latest: what accounts tell apart."""
NAMES = {
    "static": "Static: memory is filled once",
    "changing": "Changing: parts are rewritten all the time, or replaced",
}
STYLE = """
  .ground { fill: #ffffff; } .text { fill: #1c2430; } .note { fill: #5b6675; }
  .ksmd { fill: #b3541e; } .governor { fill: #2c8a57; } .hub { fill: #3f6fb5; }
  .line { stroke: #d0d7de; } .goal { stroke: #5b6675; stroke-dasharray: 4 3; }
  .lead { stroke: #9aa5b4; }
  text { font-family: system-ui, sans-serif; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #161b22; } .text { fill: #e6edf3; } .note { fill: #9aa5b4; }
    .ksmd { fill: #f0945c; } .governor { fill: #56c98a; } .hub { fill: #6ea0e8; }
    .line { stroke: #30363d; } .goal { stroke: #9aa5b4; } .lead { stroke: #5b6675; }
  }
"""
KINDS = {"hub": "the hub", "governor": "the governor of ksmd", "ksmd": "ksmd without the governor"}


def drawn(told: dict[str, Any]) -> str:
    """The picture of a run, as SVG: a panel for each workload."""
    heading = "Memory saved, times the seconds for which it stays saved"
    memory = (
        f"{told['bytes'] / 1e9:.2f} GB in {told['processes']} processes, half of it the same in "
        f"all; {told['seconds']:g} s. Dashed: the processor time of ksmd at its defaults."
    )
    parts = [
        text(20, 30, SIZE + 2, heading, bold=True),
        text(20, 52, SIZE, memory, "note"),
    ]
    rows = [it for it in told["results"] if it["setting"] != "nobody"]
    place, kinds = 20.0, {kind_of(it["setting"]) for it in rows}
    for kind, words in KINDS.items():
        if kind in kinds:
            parts.append(f'<circle class="{kind}" cx="{place + 6}" cy="70" r="6"/>')
            parts.append(text(place + 18, 75, SIZE, words))
            place += 46 + WIDE * len(words)
    present = {it["workload"] for it in rows}
    names = [it for it in NAMES if it in present]
    top = HEAD
    for name in names:
        parts += _Panel(told, name, top + 30).parts()
        top += PANEL + BETWEEN
    height = top + 6
    return svg.picture(WIDTH, height, STYLE, heading, parts)


class _Panel:
    def __init__(self, told: dict[str, Any], workload: str, top: int) -> None:
        self.workload, self.top, self.bottom = workload, top, top + PANEL
        rows = [it for it in told["results"] if it["workload"] == workload]
        self.rows = [it for it in rows if it["setting"] != "nobody"]
        spent = [max(it["cpu_seconds"], LEAST) for it in self.rows]
        self.low, self.high = floor(log10(min(spent))), ceil(log10(max(spent) * 1.5))
        compared = told["compared"].get(workload, {})
        found = max(it["saved_byte_seconds"] for it in self.rows) / 1e9
        self.most: float = compared.get("possible_gb_seconds", found) or 1.0
        self.taken: list[tuple[float, float, float, float]] = []

    def parts(self) -> Iterator[str]:
        """Scales, points and names."""
        yield text(20, self.top - 12, SIZE, NAMES[self.workload], bold=True)
        yield from self._scales()
        places = [
            (self._x(it["cpu_seconds"]), self._y(it["saved_byte_seconds"]), it) for it in self.rows
        ]
        for x, y, _ in places:
            self.taken.append((x - 8, y - 8, x + 8, y + 8))
        for x, y, it in sorted(places, key=lambda one: (one[1], one[0])):
            yield from self._name(x, y, it["setting"])
        for x, y, it in places:
            yield f'<circle class="{kind_of(it["setting"])}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'

    def _scales(self) -> Iterator[str]:
        for power in range(self.low, self.high + 1):
            x = self._x(10.0**power)
            yield (
                f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{self.bottom}"/>'
            )
            yield text(x, self.bottom + 20, SIZE, f"{10.0**power:g}", "note", anchor="middle")
        yield text(WIDTH / 2, self.bottom + 40, SIZE, "processor seconds", "note", anchor="middle")
        for part in (0.0, 0.25, 0.5, 0.75, 1.0):
            y = self._y(part * self.most * 1e9)
            yield f'<line class="line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            words = f"{part * self.most:.3g}"
            yield text(LEFT - 8, round(y) + 5, SIZE, words, "note", anchor="end")
        top = "GB s; the top line: all is saved at once"
        yield text(WIDTH - RIGHT, self.top - 12, SIZE, top, "note", anchor="end")
        base = next((it for it in self.rows if it["setting"] == BASE), None)
        if base:
            x = self._x(base["cpu_seconds"])
            yield (
                f'<line class="goal" x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{self.bottom}"/>'
            )

    def _name(self, x: float, y: float, words: str) -> Iterator[str]:
        """The name of a point, where there is room for it."""
        width = WIDE * len(words)
        away = [0, -16, 16, -32, 32, -48, 48, -64, 64, -80, 80, -96, 96, -112, 112]
        tries = [
            (left, base, left, base - 12.0, left + width, base + 4.0)
            for move in away
            for left in (x + 12, x - 12 - width)
            for base in (y + 5 + move,)
        ]
        free = [it for it in tries if self._is_free(it[2:])]
        left, base, *box = (free or tries)[0]
        self.taken.append((box[0], box[1], box[2], box[3]))
        if abs(base - 5 - y) > 20:
            end = left - 2 if left > x else left + width + 2
            yield (
                f'<line class="lead" x1="{x:.1f}" y1="{y:.1f}" x2="{end:.1f}" y2="{base - 5:.1f}"/>'
            )
        right = left < x
        yield text(
            x - 12 if right else left,
            round(base),
            SIZE,
            words,
            anchor="end" if right else "start",
        )

    def _is_free(self, box: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = box
        if left < LEFT or right > WIDTH - 4 or top < self.top - 10 or bottom > self.bottom:
            return False
        return all(
            right < it[0] or left > it[2] or bottom < it[1] or top > it[3] for it in self.taken
        )

    def _x(self, seconds: float) -> float:
        part = (log10(max(seconds, LEAST)) - self.low) / (self.high - self.low)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def _y(self, byte_seconds: float) -> float:
        return self.bottom - max(byte_seconds / 1e9, 0.0) / self.most * PANEL


def kind_of(setting: str) -> str:
    """Whose the setting is: a class of the picture's style."""
    return next((it for it in ("hub", "governor") if setting.startswith(it)), "ksmd")
