"""The columns of the table: which ones there is room for, and what their cells say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pagemerge.watch.top.lines import Line
from pagemerge.watch.top.words import cores, percent, rate, short

GAP = 1
"""Characters between two columns."""

ROOM_FOR_NAMES = 16
"""Characters that the name gets before other columns are left out to make room."""

BLOCKS = " ▏▎▍▌▋▊▉█"
"""An empty cell to a full one, by eighths, from the left."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table."""

    title: str
    width: int
    cell: Callable[[Line], str]
    sort: str = ""
    """The order that its title stands for; empty if the table cannot be sorted by it."""
    right: bool = True
    """Is the cell aligned right? Figures are."""


def bar(share: float, width: int) -> str:
    """Draw a part of 1 as a bar of ``width`` characters."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (BLOCKS[rest] if rest else "")).ljust(width)


def _bar(line: Line) -> str:
    return bar(line.merged_bytes / line.memory_bytes if line.memory_bytes else 0.0, 10)


def _several(names: tuple[str, ...], most: int) -> str:
    text = names[0] if len(names) == 1 else f"{len(names)} users"
    return text if len(text) <= most else text[: most - 1] + "…"


SAVED = Column("SAVED", 8, lambda line: short(line.saved_bytes), "saved")
MERGED = Column("MERGED", 8, lambda line: short(line.merged_bytes), "merged")
MEMORY = Column("MEMORY", 8, lambda line: short(line.memory_bytes), "memory")
BAR = Column("MERGED PART", 11, _bar, right=False)
UNSHARING = Column("UNSHARE/s", 10, lambda line: rate(line.unsharing), "unsharing")
MAPPINGS = Column("MAPPINGS", 9, lambda line: percent(line.mappings_share), "mappings")
VOLATILE = Column("VOLATILE", 9, lambda line: percent(line.volatile_share), "volatile")
COST = Column("COST", 6, lambda line: cores(line.cost), "cost")
ENGINE = Column(
    "ENGINE", 6, lambda line: line.engines[0] if len(line.engines) == 1 else "both", right=False
)
USER = Column("USER", 8, lambda line: _several(line.users, 8), right=False)
PID = Column("PID", 7, lambda line: str(line.rows[0].pid))
COUNT = Column("COUNT", 7, lambda line: f"{len(line.rows):,}")

SPARE = (COST, VOLATILE, ENGINE, USER, MAPPINGS, MEMORY, UNSHARING)
"""Columns that are left out if there is little room, the first ones first."""


def chosen(kind: str, width: int) -> list[Column]:
    """Choose the columns before the name, for lines of ``kind`` and ``width`` characters."""
    who = PID if kind == "process" else COUNT
    kept = [SAVED, MERGED, MEMORY, BAR, UNSHARING, VOLATILE, COST, MAPPINGS, ENGINE, USER, who]
    if kind == "user":
        kept.remove(USER)  # it would repeat the name
    for column in (BAR, *SPARE):
        if sum(one.width + GAP for one in kept) + ROOM_FOR_NAMES <= width:
            break
        if column in kept:
            kept.remove(column)
    return kept


def title(column: Column, sort: str, reverse: bool) -> str:
    """Write the title of a column, with an arrow if the table is sorted by it."""
    text = f"{column.title}{'▲' if reverse else '▼'}" if column.sort == sort else column.title
    return text.rjust(column.width) if column.right else text.ljust(column.width)


def name_title(kind: str, sort: str, reverse: bool) -> str:
    """Write the title of the last column, which has the names."""
    text = "NAME" if kind == "process" else kind.upper()
    return f"{text}{'▼' if reverse else '▲'}" if sort == "name" else text
