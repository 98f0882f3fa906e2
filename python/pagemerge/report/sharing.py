"""Who shares with whom: the groups, the matrix of what each two have in common, the top pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge.figures import number, precise
from pagemerge.report.given import Given, Room, page_size
from pagemerge.report.order import clustered, levels
from pagemerge.report.shapes import Section, Stack, stack
from pagemerge.report.words import cut

LEVELS = 6
"""Shades of the matrix."""
FACTOR = 3.0
"""From one shade to the next."""
PAIRS = 12
"""Pairs that are listed."""
PARTS = (
    ("zero", "zero", "zero pages", "zero_pages"),
    ("within", "own duplicates", "copies of pages that no other has", "own_duplicate_pages"),
    ("across", "shared", "pages that another one has, too", "shared_pages"),
    ("unique", "exclusive", "pages that no other has, each once", "exclusive_pages"),
)
"""Colour, name, meaning and figure of each part of a group."""
LISTED = 20
"""Groups that are listed with their parts."""
CROWDED = 12
"""With more groups than these, only every fifth number stands above the matrix."""
CELLS = ((12, 28), (25, 20))
"""Up to so many groups, a cell has so many pixels if there is room; it has ``CELL`` with more."""
CELL = 16


@dataclass(frozen=True, slots=True)
class Level:
    """The cells of one shade."""

    colour: str
    path: str
    """An SVG path of squares, one unit wide."""
    meaning: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """What each two groups have in common."""

    text: str
    names: tuple[str, ...]
    """By row, and by column."""
    heads: tuple[tuple[str, str, bool], ...]
    """Numbers above the columns: place, number, and whether it stands there even if the columns are
    narrow."""
    levels: tuple[Level, ...]
    pages: str
    """Pages in common, row by row right of the diagonal, joined by commas."""
    page_size: int
    cell: int
    """Pixels of a row, and of a column if there is room."""
    more: str

    @property
    def side(self) -> int:
        """Pixels of the whole."""
        return self.cell * len(self.names)


@dataclass(frozen=True, slots=True)
class Group:
    """A line of the list of groups."""

    name: str
    saves: str
    looked_at: str
    processes: str
    stack: Stack


@dataclass(frozen=True, slots=True)
class Sharing:
    """What the template draws."""

    kind: str
    groups: tuple[Group, ...]
    parts: tuple[tuple[str, str], ...]
    """Colours of the parts of a group, and what they mean."""
    matrix: Matrix | None
    pairs: tuple[tuple[str, str, str], ...]
    """Size in common, first and second group."""
    more: str


def section(figures: Given, room: Room) -> Section | None:
    """Draw the groups that ``--group-by`` has asked for."""
    found = figures.part("sharing")
    if not found.parts("groups"):
        return None
    size_of = page_size(figures)
    kind = cut(found.raw("group_by"), room.name) or "group"
    pairs = sorted(found.parts("pairs"), key=lambda pair: -pair.number("common_pages"))
    told = [
        (
            precise(pair.number("common_pages") * size_of),
            cut(pair.raw("first"), room.name),
            cut(pair.raw("second"), room.name),
        )
        for pair in pairs[: min(PAIRS, room.items)]
    ]
    groups = sorted(found.parts("groups"), key=lambda it: -it.number("pages"))
    shown = groups[: min(LISTED, room.groups)]
    most = max(sum(it.number(key) for *_, key in PARTS) for it in shown)
    more = _more(len(groups) - len(shown), "group", "with less memory")
    content = Sharing(
        kind,
        tuple(_group(it, size_of, most, room) for it in shown),
        tuple((colour, f"{name}: {meaning}") for colour, name, meaning, _ in PARTS),
        _matrix(found, pairs, size_of, room),
        tuple(told),
        more,
    )
    return Section("sharing", f"Who shares with whom, by {kind}", _words(told, found), content)


def _words(pairs: list[tuple[str, str, str]], found: Given) -> tuple[str, ...]:
    count = len(found.parts("groups"))
    if not pairs:
        told = "The one group that was looked at has no other to share with."
        return (told if count == 1 else f"No two of {count:,} groups have a page in common.",)
    common, first, second = pairs[0]
    return (
        f"{first} and {second} have most in common: {common} of different pages, without zeros.",
    )


def _group(it: Given, size_of: int, most: float, room: Room) -> Group:
    """Draw a group; ``most``: pages of the largest, which has the full width."""
    name = cut(it.raw("name"), room.name)
    drawn = [(colour, word, "", it.number(key) * size_of) for colour, word, _, key in PARTS]
    return Group(
        name,
        precise(it.number("saveable_bytes")),
        precise(it.number("pages") * size_of),
        number(it.number("processes"), "process", "processes"),
        stack(name, drawn, most * size_of),
    )


def _matrix(found: Given, pairs: list[Given], size_of: int, room: Room) -> Matrix | None:
    """Draw the groups that were compared; None if no two have anything in common."""
    known = dict.fromkeys(found.texts("compared"))
    for pair in pairs:
        known |= dict.fromkeys((pair.raw("first"), pair.raw("second")))
    names = list(known)[: room.groups]
    place = {name: at for at, name in enumerate(names)}
    common = np.zeros((len(names), len(names)))
    for pair in pairs:
        one, other = place.get(pair.raw("first")), place.get(pair.raw("second"))
        if one is not None and other is not None and one != other:
            common[one, other] = common[other, one] = pair.number("common_pages")
    if not common.any():
        return None
    order = clustered(common)
    common = common[np.ix_(order, order)]
    count = len(order)
    sizes = [f"{value:.0f}" for value in common[np.triu_indices(count, 1)].tolist()]
    shown = tuple(cut(names[at], room.name) for at in order)
    return Matrix(
        text=f"{number(count, 'group')} by {count}; a darker square stands for more in common. "
        "The list of pairs says the same in words.",
        names=shown,
        heads=tuple(
            (
                f"{100 * (at + 0.5) / count:.3f}%",
                str(at + 1),
                count <= CROWDED or at == 0 or at % 10 == 9,
            )
            for at in range(count)
            if count <= CROWDED or at == 0 or at % 5 == 4
        ),
        levels=_levels(common, size_of),
        pages=",".join(sizes),
        page_size=size_of,
        cell=next((pixels for most, pixels in CELLS if count <= most), CELL),
        more=_more(len(known) - count, "group", "with less in common"),
    )


def _levels(common: NDArray[np.float64], size_of: int) -> tuple[Level, ...]:
    """Make the path and the legend of each shade, the one of most in common first."""
    shade = levels(common, LEVELS, FACTOR)
    most = float(common.max()) * size_of
    found = []
    for level in range(LEVELS, 0, -1):
        rows, columns = np.nonzero(shade == level)
        if not len(rows):
            continue
        cells = zip(columns.tolist(), rows.tolist(), strict=True)
        path = "".join(f"M{x} {y}h1v1h-1z" for x, y in cells)
        least = most / FACTOR ** (LEVELS - level + 1)
        meaning = f"more than {precise(least)}" if level > 1 else f"up to {precise(least * FACTOR)}"
        found.append(Level(f"level{level}", path, meaning))
    return tuple(found)


def _more(left: int, noun: str, which: str) -> str:
    return f"Left out: {number(left, f'more {noun}')} {which}." if left > 0 else ""
