"""Tables, and notes below them: every cell of text is plain, and a row is one line.

Text from outside never reaches rich as a string, which would look for markup and emoji in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pagemerge.linux.text import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

UNBOUND = 200
"""Columns in a pipe, which has no width that a line would have to fit into."""

LEAST = 4
"""Columns that a cell of text keeps where there is little room."""


def console() -> Console:
    """Standard output: as wide as the terminal, plain in a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else UNBOUND
    return Console(highlight=False, markup=False, emoji=False, width=width)


def table(texts: Sequence[str], figures: Sequence[str], order: Sequence[str] = ()) -> Table:
    """An empty table with columns of text, which give way where there is no room, and of figures,
    which do so last; in the given order, or texts first."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in order or (*texts, *figures):
        right = name in figures
        # A column that may wrap is the first to be narrowed; what is in it says that it does not.
        made.add_column(
            cell(name),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="ellipsis",
            min_width=min(len(name), LEAST),
        )
    return made


def cell(text: str) -> Text:
    """Text for a table: one line, which is cut with an ellipsis where the column is narrower."""
    from rich.text import Text

    return Text(plain(text), no_wrap=True, overflow="ellipsis")


def show(console: Console, text: str, style: str = "") -> None:
    """One line of plain text, however wide: a terminal folds it."""
    from rich.text import Text

    console.print(Text(plain(text), style=style), soft_wrap=True)
