"""Reads the figures of a scan: a value that is missing, or not of its kind, reads as nothing.

The figures are what ``scan --json`` prints. Other parts of the program write them, and a part that
was not asked for is not there. So this module raises nothing: an unknown shape is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pagemerge.model import PAGE_SIZE

MOST = 1e18
"""A larger figure is read as this: no memory has so many bytes."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much of what has no bound of its own is shown."""

    rows: int = 500
    """Processes in the table."""
    groups: int = 50
    """Groups in the matrix, and in the list of groups."""
    items: int = 24
    """Files, contents, pairs and reasons."""
    name: int = 48
    """Characters of a name."""
    text: int = 600
    """Characters of a path, an error, or an explanation."""

    def halved(self) -> Room:
        """Return half of it, but at least a little of each."""
        return Room(
            rows=max(self.rows // 2, 1),
            groups=max(self.groups // 2, 2),
            items=max(self.items // 2, 1),
            name=max(self.name // 2, 12),
            text=max(self.text // 2, 40),
        )


class Given:
    """Named figures, of which any may be missing."""

    __slots__ = ("_found",)

    def __init__(self, found: object) -> None:
        self._found = found if isinstance(found, dict) else {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def part(self, name: str) -> Given:
        """Return the figures below ``name``; none if there are no such figures."""
        return Given(self._found.get(name))

    def parts(self, name: str) -> list[Given]:
        """Return the list of figures below ``name``."""
        return [Given(it) for it in self._list(name) if isinstance(it, dict)]

    def named(self) -> Iterator[tuple[str, Given]]:
        """Yield each part with its name."""
        for name, value in self._found.items():
            if isinstance(name, str) and isinstance(value, dict):
                yield name, Given(value)

    def number(self, name: str) -> float:
        """Return a figure, from 0 to ``MOST``; 0 if there is none."""
        return _number(self._found.get(name))

    def count(self, name: str) -> int:
        """Return a figure as a whole number."""
        return round(self.number(name))

    def known(self, name: str) -> float | None:
        """Return a figure; None if there is none."""
        value = self._found.get(name)
        return _number(value) if _is_number(value) else None

    def raw(self, name: str) -> str:
        """Return text as it is, to be compared only; empty if there is none."""
        value = self._found.get(name)
        return value if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        """Return a list of texts as they are, to be compared only."""
        return [it for it in self._list(name) if isinstance(it, str)]

    def counts(self, name: str) -> list[tuple[str, float]]:
        """Return the names below ``name`` with their figures above 0, the largest first."""
        value = self._found.get(name)
        pairs = value.items() if isinstance(value, dict) else ()
        found = [(key, _number(it)) for key, it in pairs if isinstance(key, str)]
        return sorted((it for it in found if it[1] > 0), key=lambda it: -it[1])

    def is_true(self, name: str) -> bool:
        """Return whether a figure is there and true."""
        return self._found.get(name) is True

    def _list(self, name: str) -> list[object] | tuple[object, ...]:
        value = self._found.get(name)
        return value if isinstance(value, list | tuple) else ()


def page_size(figures: Given) -> int:
    """Return the bytes of a page."""
    return figures.count("page_size") or PAGE_SIZE


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0.0
    try:
        found = float(value)
    except OverflowError:
        return MOST if value > 0 else 0.0
    return 0.0 if math.isnan(found) else min(max(found, 0.0), MOST)
