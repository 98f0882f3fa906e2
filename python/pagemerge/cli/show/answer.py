"""Shows all that a scan has found out: the survey, and what else was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pagemerge.cli.show import contents, sharing, survey, watch

if TYPE_CHECKING:
    from rich.console import Console

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
    survey.show_rows(rows, console, top, missing)


def figures(
    result: Answer, rows: list[Row], top: int | None = None, missing: Sequence[str] = ()
) -> dict[str, Any]:
    """Return all figures for JSON; keys name their units."""
    found = survey.figures(result.survey, rows, top, missing)
    found["trust"] = sharing.price_figures(result.price)
    if result.watched:
        found["watch"] = watch.figures(result.watched)
    if result.contents:
        found["contents"] = contents.figures(result.contents)
    if result.sharing:
        found["sharing"] = sharing.figures(result.sharing)
    return found
