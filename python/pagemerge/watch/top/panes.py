"""Panes of text: the title, the engines, the selected line, the governor's decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from pagemerge.watch.model import Moment
from pagemerge.watch.top import words
from pagemerge.watch.top.recent import Recent

COLORS = {"running": "bold $text-success", "paused": "bold $text-warning", "off": "bold"}
"""Styles of the states of an engine; the word itself says what the color says."""


class Item(NamedTuple):
    """A paragraph. Both texts are printable, and never read as markup."""

    lead: str
    """Stands at the left of the first line; the other lines begin where the text does."""
    text: str
    lead_style: str = ""
    text_style: str = ""
    fold: bool = True
    """Else it takes one line, and ends with an ellipsis if there is no room for all of it."""


class Pane(Widget):
    """Paragraphs below each other, folded between words; what has no room is left out."""

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._items: tuple[Item, ...] = ()

    def show(self, items: Sequence[Item]) -> None:
        """Show other paragraphs. The screen is laid out anew only if their height changes."""
        if tuple(items) == self._items:
            return
        width = self.size.width
        before = len(self._folded(width))
        self._items = tuple(items)
        self.refresh(layout=before != len(self._folded(width)))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return the lines that the paragraphs take."""
        return len(self._folded(width))

    def render(self) -> Content:
        """Draw the paragraphs."""
        return Content("\n").join(self._folded(self.size.width)[: max(self.size.height, 1)])

    def _folded(self, width: int) -> list[Content]:
        return [line for item in self._items for line in folded(item, width)]


def folded(item: Item, width: int) -> list[Content]:
    """Fold a paragraph to lines of at most ``width`` cells."""
    lead = Content.styled(item.lead, item.lead_style)
    room = width - lead.cell_length
    if room < 8:
        return [lead.truncate(max(width, 1))]
    text = Content.styled(item.text, item.text_style)
    if not item.fold:
        return [lead + text.truncate(room, ellipsis=True)]
    lines = text.wrap(room)
    indent = Content(" " * lead.cell_length)
    return [(indent if at else lead) + line for at, line in enumerate(lines)] or [lead]


def engines(recent: Recent) -> list[Item]:
    """Make the lines of both engines."""
    states = (("Hub ", words.user_engine(recent)), ("ksmd", words.kernel_engine(recent)))
    return [Item(f"{name} {it.word:<8}", it.text, COLORS[it.word]) for name, it in states]


def selected(told: Sequence[str]) -> list[Item]:
    """Make the paragraphs of the selected line. The reasons come first where there are any,
    because there may be no room for everything."""
    if not told:
        return [Item("", "Nothing is selected.", "", "$foreground-muted")]
    identity, figures, *reasons = told
    items = [Item("", reason, "", "bold") for reason in reasons]
    return [*items, Item("", identity), Item("", figures)]


def decisions(recent: Recent, moment: Moment | None, most: int) -> list[Item]:
    """Make the lines of the last decisions, the newest one first."""
    if not recent.decisions:
        return (
            []
            if moment is None
            else [Item("", words.no_decisions(moment), "", "$foreground-muted")]
        )
    newest = list(recent.decisions)[: -most - 1 : -1]
    return [
        Item(f"{words.clock(one.time)} ", words.decided(one), "$foreground-muted", fold=False)
        for one in newest
    ]
