"""Tables, and notes below them: every cell of text is plain, and a row is one line.

Text from outside never reaches rich as a string, because rich looks for markup and emoji in those.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pagemerge.cli.show.words import folded
from pagemerge.linux.text import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

UNBOUND = 200
"""Width in a pipe, which has no limit, in characters."""

LEAST_WIDTH, USUAL_WIDTH = 20, 80
"""Columns: a terminal that claims to have fewer than the first is treated as one of the second."""

GAP = 2
"""Characters between two columns of a table."""

ROOM_FOR_TEXT = 12
"""Characters that a column of text gets before other columns are left out to make room."""

LONGER = {"domain": 24}
"""The same for columns that need more, because their texts differ only at the end."""

LEAST = 4
"""Characters that a cell keeps if there is little room."""

WHOLE = {"pid": 7}
"""Columns that are never cut, and their widths: half a pid would look like another pid."""


def console() -> Console:
    """Make a console for standard output: as wide as the terminal, plain in a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else UNBOUND
    made = Console(highlight=False, markup=False, emoji=False, width=width)
    if made.width < LEAST_WIDTH:  # COLUMNS=0, say: rich would print nothing
        made.width = USUAL_WIDTH
    return made


def table(texts: Sequence[str], figures: Sequence[str], order: Sequence[str] = ()) -> Table:
    """Make an empty table with columns of text and of figures, in the given order, or texts first.

    Fill it with ``add``. If there is not enough room, the widest columns become narrower.
    """
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for name in order or (*texts, *figures):
        right = name in figures
        # rich narrows columns that may wrap, the widest first; their cells say that they do not.
        made.add_column(
            cell(name),
            justify="right" if right else "left",
            overflow="ellipsis",
            no_wrap=right,  # a figure that is cut would look like another figure
            min_width=WHOLE.get(name.lower(), min(len(name), LEAST)),
        )
    return made


def add(table: Table, *cells: str) -> None:
    """Add a row to ``table``."""
    table.add_row(*map(cell, cells))


def fitted(
    rows: Sequence[Sequence[str]],
    width: int,
    texts: Sequence[str],
    figures: Sequence[str],
    order: Sequence[str],
    spare: Sequence[str],
) -> Table:
    """Make a table of ``rows``, with cells in ``order``, for a screen of ``width`` columns.

    If it is too wide, the columns ``spare`` (those that exist) are left out one by one, from the
    first on; after that, columns of text become narrower.
    """
    from rich.cells import cell_len

    def wide(name: str) -> int:
        at = order.index(name)
        most = max([cell_len(name), *(cell_len(plain(row[at])) for row in rows)])
        room = LONGER.get(name.lower(), ROOM_FOR_TEXT)
        return max(min(most, room) if name in texts else most, WHOLE.get(name.lower(), 0))

    kept, left = list(order), [name for name in spare if name in order]
    while left and sum(wide(name) + GAP for name in kept) - GAP > width:
        kept.remove(left.pop(0))
    made = table(texts, figures, kept)
    for row in rows:
        add(made, *(row[order.index(name)] for name in kept))
    return made


def items(console: Console, pairs: Sequence[tuple[str, str]]) -> None:
    """Print lines of a figure and its meaning, which is folded beside the figure."""
    for figure, meaning in pairs:
        start = f"{figure:>11}" + " " * GAP
        width = max(console.width, 2 * len(start))
        for line in folded(plain(meaning), width, start, " " * len(start)):
            console.print(line, soft_wrap=True)


def cell(text: str) -> Text:
    """Make text for a table: one line, cut with an ellipsis if the column is narrower."""
    from rich.text import Text

    return Text(plain(text), no_wrap=True, overflow="ellipsis")


def show(console: Console, text: str, style: str = "") -> None:
    """Print plain text: one line of any width in a pipe; on a terminal folded between words."""
    from rich.text import Text

    if not console.is_terminal:
        console.print(Text(plain(text), style=style), soft_wrap=True)
        return
    for line in folded(plain(text), console.width):
        console.print(Text(line, style=style))
