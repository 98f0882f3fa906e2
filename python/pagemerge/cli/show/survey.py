"""How a survey is shown: the answer in words, its parts, a row for each process, and notes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.figures import number, pages, precise
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pagemerge.cli.show.printed_scan import RowFigures, SurveyFigures
    from pagemerge.find.stable import Stable
    from pagemerge.find.survey import Row, Survey
    from pagemerge.find.tally import Totals


def figures(
    result: Survey, rows: list[Row], top: int | None = None, missing: Sequence[str] = ()
) -> SurveyFigures:
    """Return the survey for JSON; keys name their units."""
    totals, merged = result.totals, result.merged
    return {
        "totals": {
            "pages": totals.pages,
            "zero_pages": totals.zero_pages,
            "duplicate_pages_within": totals.duplicate_pages_within,
            "duplicate_pages_across": totals.duplicate_pages_across,
            "already_shared_pages": totals.already_shared_pages,
            "saveable_bytes": totals.saveable_pages * PAGE_SIZE,
            "saveable_bytes_by_kind": {
                "zero": totals.saveable_zero_pages * PAGE_SIZE,
                "within": totals.saveable_within_pages * PAGE_SIZE,
                "across": totals.saveable_across_pages * PAGE_SIZE,
            },
            "saveable_bytes_by_engine_at_most": {
                "kernel": totals.saveable_pages * PAGE_SIZE,
                "user": totals.markable_pages * PAGE_SIZE,
            },
            "merged_pages": merged.pages,
            "merged_saved_bytes": merged.saved_pages * PAGE_SIZE,
            "ineligible_bytes": sum(result.ineligible.values()),
            "ineligible_bytes_by_reason": result.ineligible,
        },
        "processes": [_row_figures(row) for row in rows[:top]],
        "processes_left_out": len(rows[top:]) if top else 0,
        "not_found": list(missing),
        "page_size": PAGE_SIZE,
        "seconds": round(result.seconds, 6),
        "bytes_read": result.bytes_read,
        "bytes_per_second": round(result.bytes_read / max(result.read_seconds, 1e-9)),
    }


def _row_figures(row: Row) -> RowFigures:
    return {
        "pid": row.pid,
        "name": row.name,
        "uid": row.uid,
        "domain": row.domain,
        "pages": row.pages,
        "zero_pages": row.zero_pages,
        "duplicate_pages": row.duplicate_pages,
        "shared_pages": row.shared_pages,
        "saveable_bytes": row.saveable_bytes,
        "merged_pages": row.merged_pages,
        "unreadable_pages": row.unreadable_pages,
        "ineligible_bytes": sum(row.ineligible.values()),
        "ineligible_bytes_by_reason": row.ineligible,
        "error": row.error or None,
    }


def show_answer(result: Survey, console: Console) -> None:
    """Print the answer in words, and its parts."""
    from rich.text import Text

    from pagemerge.find import eligible

    totals, merged = result.totals, result.merged
    processes = sum(not row.error for row in result.rows if row.pid is not None)
    images = sum(row.pid is None for row in result.rows)
    counts = [number(processes, "process", "processes")] if processes or not images else []
    counts += [number(images, "image")] if images else []
    more = " more" if merged.pages else ""
    answer = Text("Merging would save ")
    answer.append(pages(totals.saveable_pages) + more, style="bold")
    of = f" of {pages(totals.pages)} looked at, in {' and '.join(counts)}:"
    console.print(answer.append(of))
    zero, within = totals.saveable_zero_pages, totals.saveable_within_pages
    parts = [
        (pages(zero), "zero pages"),
        (pages(within), "duplicates within a process"),
        (pages(totals.saveable_across_pages), "duplicates across processes"),
    ]
    tables.items(console, parts)
    if totals.saveable_pages:
        tables.show(console, "What each engine could save of it:")
        tables.items(console, _engines(totals))
    if before := _saved_before(totals, merged):
        tables.show(console, "Saved before, and not counted above:")
        tables.items(console, before)
    reasons = sorted(result.ineligible.items(), key=lambda item: -item[1])
    if reasons:
        tables.show(console, "Cannot be merged, as mapped by each process:")
        texts = [(precise(it), f"{why}: {eligible.REASONS[why]}") for why, it in reasons if it]
        tables.items(console, texts)


def show_rows(
    rows: list[Row], console: Console, top: int | None = None, missing: Sequence[str] = ()
) -> None:
    """Print one line for each process, and notes."""
    console.print()
    denied = [row for row in rows if row.denied]
    denied = denied if len(denied) > 1 else []
    listed = [row for row in rows if row not in denied]
    console.print(_table(listed[:top], len(denied), console.width))
    if top and (rest := [row for row in listed[top:] if not row.error]):
        saved = precise(sum(row.saveable_bytes for row in rest))
        others = number(len(rest), "more process", "more processes")
        tables.show(console, f"... and {others}, which would save {saved}")
    for line in [*missing, *_notes(listed)]:
        tables.show(console, line)
    if denied:
        cure = "run as root" if os.geteuid() else denied[0].error
        tables.show(
            console, f"{number(len(denied), 'process', 'processes')} may not be looked at: {cure}"
        )


def _engines(totals: Totals) -> list[tuple[str, str]]:
    """List what each engine could save of it, and the command for that."""
    return [
        (
            pages(totals.saveable_pages),
            "the kernel engine, for each user separately, in any process that the user engine "
            "does not merge (`pagemerge attach`, `run --engine kernel`)",
        ),
        (
            pages(totals.markable_pages),
            "at most the user engine: all anonymous mappings of programs that are started with "
            "`pagemerge run --all`, or that mark them (QEMU does), and arrays of the Python API",
        ),
    ]


def _saved_before(totals: Totals, merged: Stable) -> list[tuple[str, str]]:
    """List memory that shares its physical pages already."""
    found = []
    if merged.pages:
        kept = f"merged by pagemerge: {pages(merged.pages)} mapped, kept in {pages(merged.slots)}"
        found.append((pages(merged.saved_pages), kept))
    if totals.already_shared_pages:
        shared = "shared since a fork, or merged by Linux"
        found.append((pages(totals.already_shared_pages), shared))
    return found


def _table(rows: list[Row], denied: int, width: int) -> Table:
    """Make a table: a row for each process, and one for all processes that may not be looked at."""
    sizes: dict[str, Callable[[Row], str]] = {
        "LOOKED AT": lambda row: pages(row.pages),
        "ZERO": lambda row: pages(row.zero_pages),
        "DUPLICATE": lambda row: pages(row.duplicate_pages),
        "SHARED": lambda row: pages(row.shared_pages),
        "SAVES": lambda row: precise(row.saveable_bytes),
        "MERGED": lambda row: pages(row.merged_pages),
    }
    if not any(row.shared_pages for row in rows):
        del sizes["SHARED"]
    if not any(row.merged_pages for row in rows):
        del sizes["MERGED"]
    shown = []
    for row in rows:
        cells = ["-" if row.error else told(row) for told in sizes.values()]
        pid, uid = ("-" if it is None else str(it) for it in (row.pid, row.uid))
        shown.append([pid, row.name, uid, *cells])
    if denied:
        shown.append(["-", number(denied, "process", "processes"), *["-"] * (1 + len(sizes))])
    columns = ("PID", "NAME", "UID", *sizes)
    # The UID shows which processes can share pages, unless all processes belong to one user.
    one_user = len({row.uid for row in rows}) == 1
    details = ("ZERO", "SHARED", "DUPLICATE")
    spare = ("UID", *details) if one_user else (*details, "UID")
    return tables.fitted(shown, width, ("NAME",), ("PID", "UID", *sizes), columns, spare)


def _notes(rows: list[Row]) -> list[str]:
    """List what could not be looked at, and why; processes with the same reason share a line."""
    said: dict[str, list[Row]] = {}
    for row in rows:
        if row.error:
            said.setdefault(row.error, []).append(row)
    if partly := [row for row in rows if row.unreadable_pages]:
        unread = sum(row.unreadable_pages for row in partly)
        said[f"{number(unread, 'page')} could not be read: unmapped or changed since"] = partly
    found = []
    for told, about in said.items():
        first = about[0]
        others = f" and {len(about) - 1} more" if len(about) > 1 else ""
        found.append(f"{who(first)}{others}: {told}")
    return found


def who(row: Row) -> str:
    return row.name if row.pid is None else f"process {row.pid} ({row.name})"
