"""Tells a history in words, as a table, as a chart, as JSON and as CSV (``pagemerge history``)."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.cli.show.chart import MARGIN, chart, clock
from pagemerge.figures import duration, number, size
from pagemerge.linux.text import plain
from pagemerge.watch.summary import LONGEST_GAP, Slices, Summary
from pagemerge.watch.topics import words_of

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.cli.show.printed import Summed
    from pagemerge.watch.model import Moment

LINES = 12
"""Most lines of the table."""
WIDTH = 80
"""Most columns of a chart, its axis included."""
LATE = 300.0
"""Seconds after which the last moment is not of now."""

FIELDS = (
    "time",
    "saved_bytes",
    "user_saved_bytes",
    "kernel_saved_bytes",
    "user_profit_bytes",
    "kernel_profit_bytes",
    "available_bytes",
    "pressure_percent",
    "clients",
    "user_separations",
    "kernel_separations",
    "user_cpu_seconds",
    "kernel_cpu_seconds",
    "decisions",
)
"""The columns of CSV. ``time`` is Unix time in seconds; a figure that is not known is empty."""


def sentences(summary: Summary, now: float) -> list[str]:
    """Say what was saved, how much unshared, and what was decided."""
    assert summary.first is not None and summary.last is not None
    spread = summary.last.time - summary.first.time
    age = now - summary.last.time
    when = "now" if age < LATE else f"at the last moment recorded, {duration(age)} ago"
    told = [
        f"Merging saves {size(summary.last.saved_bytes)} {when}. Over {duration(spread)} it saved "
        f"{size(summary.mean_bytes)} on average, {size(summary.highest[0])} at most "
        f"({clock(summary.highest[1], spread)}) and {size(summary.lowest[0])} at least "
        f"({clock(summary.lowest[1], spread)})."
    ]
    if summary.seconds:
        told.append(
            f"Programs wrote to {number(summary.separations, 'merged page')} "
            f"({summary.separations / summary.seconds:,.1f} per second), and merging took "
            f"{summary.cpu_seconds / summary.seconds:.1%} of a core."
        )
    return [*told, _decided(summary, spread)]


def _decided(summary: Summary, spread: float) -> str:
    last = summary.last_decision
    if last is None:
        return "The governor decided nothing, or did not run."
    topic, count = max(summary.topics.items(), key=lambda it: it[1])
    often = f"most often ({count:,}) because {words_of(topic)}"
    return (
        f"The governor decided {number(summary.decisions, 'time')}, {often}; the last time, at "
        f"{clock(last.time, spread)}: {plain(last.reason)}."
    )


def show(console: Console, moments: Iterable[Moment], now: float) -> bool:
    """Print the words and the table; false if there are no moments."""
    found = list(moments)
    summary = _summed(found)
    if summary.first is None or summary.last is None:
        return False
    for line in sentences(summary, now):
        tables.show(console, line)
    until = summary.last.time
    spread = until - summary.first.time
    slices = Slices(summary.first.time, until, min(LINES, len(found)))
    for moment in found:
        slices.add(moment)
    rows = [_cells(it.start, it.summary, spread) for it in slices.all if it.summary.last]
    figures = ("saved", "least", "most", "user", "kernel", "available", "unshared/s", "cost")
    spare = ("most", "least", "available", "cost")
    console.print()
    order = ("from", *figures)
    console.print(tables.fitted(rows, console.width, ("from",), figures, order, spare))
    return True


def _cells(start: float, summary: Summary, spread: float) -> list[str]:
    last = summary.last
    assert last is not None
    available = last.host.available_bytes
    seconds = summary.seconds
    return [
        clock(start, spread),
        size(summary.mean_bytes),
        size(summary.lowest[0]),
        size(summary.highest[0]),
        size(last.user.saved_bytes) if last.user else "-",
        size(last.kernel.saved_bytes) if last.kernel else "-",
        "-" if available is None else size(available),
        f"{summary.separations / seconds:,.1f}" if seconds else "-",
        f"{summary.cpu_seconds / seconds:.1%}" if seconds else "-",
    ]


def show_chart(console: Console, moments: Iterable[Moment], now: float) -> bool:
    """Print the words and a chart of the saving; false if there are no moments."""
    found = list(moments)
    summary = _summed(found)
    if summary.first is None or summary.last is None:
        return False
    for line in sentences(summary, now):
        tables.show(console, line)
    since, until = summary.first.time, summary.last.time
    width = max(min(console.width, WIDTH) - MARGIN, 8)
    slices = Slices(since, until, width)
    for moment in found:
        slices.add(moment)
    console.print()
    tables.show(console, "Saved bytes over time:")
    encoding = sys.stdout.encoding or "ascii"
    for line in chart(_columns(slices), since, until, encoding=encoding):
        print(line)
    return True


def _columns(slices: Slices) -> list[float | None]:
    """Return the saving of each column; one without a moment between two near ones is as before."""
    values: list[float | None] = []
    last: Moment | None = None
    for it in slices.all:
        if it.summary.last is not None:
            last = it.summary.last
            values.append(it.summary.mean_bytes)
        elif last is not None and it.start - last.time < LONGEST_GAP:
            values.append(float(last.saved_bytes))
        else:
            values.append(None)
    return values


def _summed(moments: Iterable[Moment]) -> Summary:
    summary = Summary()
    for moment in moments:
        summary.add(moment)
    return summary


def print_json(moments: Iterable[Moment], path: str) -> bool:
    """Print one object: the moments as they are read, and their summary at the end."""
    import msgspec

    from pagemerge.cli.show.words import as_json

    summary, comma = Summary(), ""
    print(f'{{\n"path": {as_json(path)},\n"moments": [', end="")
    for moment in moments:
        summary.add(moment)
        # Names are plain in a history (``history._bounded``), so each encoder can write them.
        print(f"{comma}\n{msgspec.json.encode(moment).decode()}", end="")
        comma = ","
    print(f'\n],\n"summary": {as_json(figures(summary))}\n}}')
    return summary.moments > 0


def figures(summary: Summary) -> Summed:
    """Return the summary for JSON; keys name their units."""
    return {
        "moments": summary.moments,
        "seconds": summary.seconds,
        "mean_saved_bytes": round(summary.mean_bytes),
        "highest_saved_bytes": summary.highest[0],
        "highest_time": summary.highest[1],
        "lowest_saved_bytes": summary.lowest[0],
        "lowest_time": summary.lowest[1],
        "separations": round(summary.separations),
        "cpu_seconds": summary.cpu_seconds,
        "decisions_by_topic": summary.topics,
    }


def print_csv(moments: Iterable[Moment]) -> bool:
    """Print a line of ``FIELDS``, and one for each moment."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(FIELDS)
    count = 0
    for count, it in enumerate(moments, 1):  # noqa: B007
        user, kernel = it.user, it.kernel
        out.writerow(
            [
                it.time,
                it.saved_bytes,
                user and user.saved_bytes,
                kernel and kernel.saved_bytes,
                user and user.profit_bytes,
                kernel and kernel.profit_bytes,
                it.host.available_bytes,
                it.host.pressure_percent,
                user and user.clients,
                user and user.separations,
                kernel and kernel.separations,
                user and user.cpu_seconds,
                kernel and kernel.cpu_seconds,
                len(it.decisions),
            ]
        )
    return count > 0


def nothing(series: list[tuple[float, int]], asked: str) -> str:
    """Say that the range has no moments, and where the last one is."""
    told = f"nothing was recorded in the last {asked}"
    if not series:
        return f"{told}, or before"
    last = time.strftime("%Y-%m-%d %H:%M", time.localtime(series[-1][0]))
    return f"{told}: the last moment is of {last}; ask for more with --since"
