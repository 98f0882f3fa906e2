"""The table: it draws only the lines that are on the screen, so two thousand rows cost no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from pagemerge.watch.top import columns
from pagemerge.watch.top.lines import Line

MARK = "!"
"""Stands before a line that merges nothing."""


class Table(Widget, can_focus=True):
    """Lines below their titles; one line is selected, and stays selected while lines move.

    Keys: arrows or j and k, page up and down, home and end. A click selects a line, or sorts.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--title",
        "table--selected",
        "table--mark",
        "table--aside",
        "table--bar",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move(-1000000)", "First", show=False),
        Binding("end", "move(1000000)", "Last", show=False),
    ]

    class Selected(Message):
        """Another line is selected."""

    class Sorted(Message):
        """A click asks for an order."""

        def __init__(self, sort: str) -> None:
            super().__init__()
            self.sort = sort

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.lines: Sequence[Line] = ()
        self.kind, self.sort, self.reverse, self.empty = "process", "saved", False, ""
        self._at = 0
        self._top = 0
        self._key: tuple[str, str] | None = None

    @property
    def selected(self) -> Line | None:
        """The selected line; None if there are no lines."""
        return self.lines[self._at] if self.lines else None

    @property
    def place(self) -> tuple[int, int]:
        """Number of the selected line, from 1 on, and how many lines there are."""
        return (self._at + 1 if self.lines else 0), len(self.lines)

    def show(
        self, lines: Sequence[Line], kind: str, sort: str, reverse: bool, empty: str = ""
    ) -> None:
        """Show other lines. The selected line stays selected, wherever it is now; if it has gone,
        the line in its place is. ``empty`` is said if there are no lines."""
        self.lines, self.kind, self.sort, self.reverse = lines, kind, sort, reverse
        self.empty = empty
        keys = (at for at, line in enumerate(lines) if line.key == self._key)
        # Until a line was chosen, the first one is selected, whichever that is.
        self._select(next(keys, self._at) if self._key else 0, chosen=self._key is not None)
        self.refresh()

    def action_move(self, by: int) -> None:
        """Select the line that is ``by`` lines further down."""
        self._select(self._at + by)
        self.refresh()
        self.post_message(self.Selected())

    def action_page(self, by: int) -> None:
        """Go up or down by what is on the screen."""
        self.action_move(by * max(self._room - 1, 1))

    def on_click(self, event: events.Click) -> None:
        """Select the line that was clicked, or sort by the title that was."""
        if event.y == 0:
            if sort := self._sort_at(event.x):
                self.post_message(self.Sorted(sort))
        elif self._top + event.y - 1 < len(self.lines):
            self.action_move(self._top + event.y - 1 - self._at)

    def on_mouse_scroll_down(self) -> None:
        """Go three lines down."""
        self.action_move(3)

    def on_mouse_scroll_up(self) -> None:
        """Go three lines up."""
        self.action_move(-3)

    def on_resize(self) -> None:
        """Keep the selected line on the screen."""
        self._scroll()

    def render_line(self, y: int) -> Strip:
        """Draw one line of the screen."""
        width = self.size.width
        if y == 0:
            return self._titles(width)
        at = self._top + y - 1
        if at < len(self.lines):
            return self._row(self.lines[at], width, at == self._at)
        style = self.rich_style
        told = f"  {self.empty}" if y == 1 and not self.lines else ""
        return Strip([Segment(set_cell_size(told, width), style)], width)

    @property
    def _room(self) -> int:
        """Lines that the screen has room for."""
        return max(self.size.height - 1, 1)

    def _select(self, at: int, chosen: bool = True) -> None:
        self._at = min(max(at, 0), max(len(self.lines) - 1, 0))
        if chosen and self.lines:
            self._key = self.lines[self._at].key
        self._scroll()

    def _scroll(self) -> None:
        lowest = max(len(self.lines) - self._room, 0)
        self._top = min(max(self._top, self._at - self._room + 1, 0), self._at, lowest)

    def _titles(self, width: int) -> Strip:
        shown = columns.chosen(self.kind, width - 3)
        gap = " " * columns.GAP
        text = (
            "  "
            + "".join(columns.title(one, self.sort, self.reverse) + gap for one in shown)
            + columns.name_title(self.kind, self.sort, self.reverse)
        )
        style = self.get_component_rich_style("table--title")
        return Strip([Segment(set_cell_size(text, width), style)], width)

    def _row(self, line: Line, width: int, selected: bool) -> Strip:
        shown = columns.chosen(self.kind, width - 3)
        base = self.rich_style
        mark, aside, bars = (
            self.get_component_rich_style(f"table--{name}") for name in ("mark", "aside", "bar")
        )
        if selected:
            base = mark = aside = bars = self.get_component_rich_style("table--selected")
        pieces: list[tuple[str, Style]] = [(f"{MARK if line.merges_nothing else ' '} ", mark)]
        for one in shown:
            cell = one.cell(line)
            text = cell.rjust(one.width) if one.right else set_cell_size(cell, one.width)
            pieces.append((text, bars if one is columns.BAR else base))
            pieces.append((" " * columns.GAP, base))
        left = width - sum(cell_len(text) for text, _ in pieces) - 1  # the last column stays free
        name = _cut(line.name, left)
        pieces.append((name, base))
        left -= cell_len(name)
        pieces.append(
            (set_cell_size(_cut(f"  {line.aside}", left) if left > 5 else "", left + 1), aside)
        )
        # On a screen that is narrower than the figures alone, they are cut.
        return Strip(Segment(text, style) for text, style in pieces).adjust_cell_length(width)

    def _sort_at(self, x: int) -> str:
        """The order that the title in column ``x`` of the screen stands for; empty if none."""
        at = 2
        for one in columns.chosen(self.kind, self.size.width - 3):
            at += one.width + columns.GAP
            if x < at:
                return one.sort
        return "name"


def _cut(text: str, width: int) -> str:
    """Cut text to ``width`` cells, with an ellipsis if something is left out."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)) + "…" if width > 0 else ""
