"""Shows all that a scan has found out: the survey, and what else was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from pagemerge.cli.show import compress, contents, fit, sharing, survey, tables, watch, why

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.cli.show.printed_scan import AnswerFigures
    from pagemerge.estimate.answer import Answer
    from pagemerge.find.survey import Row


def show(
    result: Answer,
    rows: list[Row],
    console: Console,
    top: int | None = None,
    missing: Sequence[str] = (),
) -> None:
    """Print the answer in words, then each part, then a row for each of ``rows``, then notes."""
    survey.show_answer(result.survey, console)
    sharing.show_price(console, result.price)
    if result.watched:
        watch.show(console, result.watched)
    if result.contents:
        contents.show(console, result.contents)
    if result.sharing:
        sharing.show(console, result.sharing)
    if result.reasons:
        _heading(console, "Why memory does not merge:")
        why.show(console, result.reasons)
    if result.fit:
        _heading(console, "How many more fit:")
        fit.show(console, result.fit)
    if result.compression:
        _heading(console, "Compression instead, or as well:")
        compress.show(console, result.compression)
    survey.show_rows(rows, console, top, missing)
    for name, note in result.notes:
        tables.show(console, f"{name}: {note}")


def _heading(console: Console, text: str) -> None:
    console.print()
    tables.show(console, text, "bold")


def figures(
    result: Answer, rows: list[Row], top: int | None = None, missing: Sequence[str] = ()
) -> AnswerFigures:
    """Return all figures for JSON; keys name their units."""
    found = cast("AnswerFigures", survey.figures(result.survey, rows, top, missing))
    found["trust"] = sharing.price_figures(result.price)
    if result.watched:
        found["watch"] = watch.figures(result.watched)
    if result.contents:
        found["contents"] = contents.figures(result.contents)
    if result.sharing:
        found["sharing"] = sharing.figures(result.sharing)
    if result.reasons:
        found["why"] = why.figures(result.reasons)
    if result.fit:
        found["fit"] = fit.figures(result.fit)
    if result.compression:
        found["compress"] = compress.figures(result.compression)
    found["notes"] = [{"name": name, "note": note} for name, note in result.notes]
    return found
