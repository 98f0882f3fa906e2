"""What a section of the page is made of: words, stacked bars, bars. Pure values; templates draw
them.

Places and lengths are percent of the width that there is, written for SVG, so that text beside
them keeps its size at every width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pagemerge.figures import precise
from pagemerge.report.words import part


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the page."""

    name: str
    """Its anchor, and the name of the template that draws ``content``."""
    title: str
    words: tuple[str, ...]
    """The answer in sentences; the first one stands at the top of the page, too."""
    content: object


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a stacked bar."""

    colour: str
    """A class of the style sheet."""
    name: str
    meaning: str
    size: str
    part: str
    x: str
    width: str


@dataclass(frozen=True, slots=True)
class Stack:
    """A stacked bar and its legend."""

    title: str
    text: str
    """The bar in words, for readers who do not see it."""
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A line of a bar chart."""

    label: str
    value: str
    width: str
    note: str = ""
    colour: str = "within"
    low: str = ""
    """Where an interval begins; empty: there is none."""
    high: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar chart."""

    title: str
    rows: tuple[Bar, ...]
    more: str = ""
    """What was left out."""
    wide: bool = False
    """Labels are long: they stand above the bars."""


def percent(some: float, whole: float) -> str:
    """Write a place or a length for SVG: a part of the whole width."""
    return f"{min(100 * some / whole, 100) if whole > 0 else 0:.3g}%"


def stack(title: str, parts: Iterable[tuple[str, str, str, float]], length: float = 0.0) -> Stack:
    """Make a stacked bar; ``parts``: colour, name, meaning and bytes, of which 0 is left out.

    ``length``: the bytes of the full width; the parts fill it if that is 0.
    """
    there = [it for it in parts if it[3] > 0]
    whole = sum(bytes_ for *_, bytes_ in there)
    length = length or whole
    segments, before = [], 0.0
    for colour, name, meaning, bytes_ in there:
        share = part(bytes_, whole)
        place, width = f"{100 * before / length:.3f}%", f"{100 * bytes_ / length:.3f}%"
        segments.append(Segment(colour, name, meaning, precise(bytes_), share, place, width))
        before += bytes_
    text = "; ".join(f"{it.name}: {it.size}, {it.part}" for it in segments)
    return Stack(title, text, tuple(segments))


def bars(
    title: str,
    rows: Sequence[tuple[str, float, str]],
    more: str = "",
    colour: str = "within",
    wide: bool = False,
) -> Bars:
    """Make a bar chart of sizes; ``rows``: label, bytes, note. The largest fills the width."""
    most = max((bytes_ for _, bytes_, _ in rows), default=0.0)
    drawn = (
        Bar(label, precise(bytes_), percent(bytes_, most), note, colour)
        for label, bytes_, note in rows
    )
    return Bars(title, tuple(drawn), more, wide)
