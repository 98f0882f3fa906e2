"""Shows what ``attach`` and ``detach`` have done, one line for each process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pagemerge.cli.show import selection, tables
from pagemerge.figures import duration, number

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.cli.show.printed import Marked
    from pagemerge.ksmd.model import Selection
    from pagemerge.ksmd.targets import Target


def show_chosen(chosen: list[Selection], console: Console, *, done: bool) -> None:
    """Show what is worth marking by the look at pages; ``done``: it is marked now."""
    tables.show(console, selection.sentence(chosen, done=done))
    console.print()
    console.print(selection.processes(chosen, console.width))
    for line in selection.notes(chosen):
        tables.show(console, line)
    console.print()


def figures(rows: Iterable[Target]) -> dict[str, Any]:
    """Return what was done, for JSON; keys name their units."""
    from dataclasses import asdict

    return {
        "processes": [
            {**_figures(row), **(asdict(row.outcome) if row.outcome else {})} for row in rows
        ]
    }


def _figures(row: Target) -> Marked:
    return {
        "pid": row.process.pid,
        "name": row.process.name,
        "uid": row.process.uid,
        "eligible_bytes": row.eligible_bytes,
        "error": row.error or None,
        "remark": row.remark or None,
        "merged_bytes": row.merged_bytes,
    }


def merged_before(row: Target) -> str:
    """Write how much of a process was merged before, as of the last scan of ksmd."""
    pages = row.outcome.merged_pages_before if row.outcome else None
    return "-" if pages is None else number(pages, "page")


def refused(targets: Iterable[Target], console: Console, verb: str, heading: str) -> bool:
    """Show why nothing was done if no process could be ``verb`` (a participle); true then.

    ``heading``: of the last column, which is empty.
    """
    if not all(target.error for target in targets):
        return False
    tables.show(console, f"None of them can be {verb}.")
    show(targets, console, heading, lambda _: "-")
    return True


def show(
    rows: Iterable[Target],
    console: Console,
    heading: str = "MERGED BEFORE",
    figure: Callable[[Target], str] = merged_before,
) -> None:
    """Print one line for each process, and notes on some processes below."""
    rows = list(rows)
    table = tables.table(
        ("NAME", "HOW"),
        ("PID", "UID", "HELD", heading),
        ("PID", "NAME", "UID", "HOW", "HELD", heading),
    )
    for row in rows:
        who, done = row.process, row.outcome
        how, hold = ("-", "-") if done is None else (done.how, held(done.longest_hold_seconds))
        tables.add(table, str(who.pid), who.name, str(who.uid), how, hold, figure(row))
    console.print()
    console.print(table)
    for row in rows:
        if told := note(row):
            tables.show(console, f"{row.process.pid} {row.process.name}: {told}")


def held(seconds: float) -> str:
    """Write how long a thread was stopped: ``60 us``, ``1.2 ms``, ``0.42 s``."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else duration(seconds)


def note(row: Target) -> str:
    """Write the note on a process; empty if there is none."""
    if row.error:
        return row.error
    if row.outcome is None:
        return row.remark
    if row.outcome.already:
        return "was so already"
    if row.outcome.refused_ranges:
        of = number(row.outcome.ranges, "range")
        return f"{row.outcome.refused_ranges} of {of} refused by the kernel"
    if row.outcome.still_mergeable:
        return "has marked more of its memory as mergeable meanwhile: detach it again"
    return ""
