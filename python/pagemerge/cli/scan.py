"""``pagemerge scan``: what merging would save."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pagemerge.cli import tables
from pagemerge.cli.words import as_json
from pagemerge.errors import PagemergeError, UsageError
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pagemerge.find.survey import Row, Survey

SORTS = ("gain", "name", "pid")


class Scan:
    """Tell what merging identical pages of running processes would save.

    Reads the private anonymous memory of the processes once and counts pages with the same
    content. Changes nothing, stops nobody, touches neither holes nor swapped pages. Pages count
    as duplicates inside a trust domain only: the processes of one user.

    Other users' processes need root. The figures are those of the moment.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the verb to ``parser``."""
        add = parser.add_argument
        add("target", nargs="*", metavar="PID|NAME", help="processes to look at, by pid or name")
        add("--all", action="store_true", help="look at all processes")
        add("--json", action="store_true", help="print figures as JSON")
        add("--sort", choices=SORTS, default="gain", help="order of processes (default: gain)")
        add("--threads", type=_count, default=0, metavar="N", help="default: all processors")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Look and print; 1 if not one of the processes could be looked at."""
        if bool(args.target) == args.all:
            raise UsageError(
                "name processes by pid or name, or give --all for every process"
                if not args.all
                else "give either processes or --all"
            )
        from pagemerge.cli.progress import looking
        from pagemerge.find import process
        from pagemerge.find.survey import survey

        chosen = process.everyone() if args.all else process.named(args.target)
        with looking() as progress:
            result = survey(chosen, args.threads, progress)
        rows = _ordered(result.rows, args.sort, drop_empty=args.all)
        if args.json:
            print(as_json(figures(result, rows)))
        elif any(not row.error for row in rows):
            show(result, rows, tables.console())
        return _status(result.rows)


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 4096:
        raise argparse.ArgumentTypeError("not a sensible number of threads")
    return number


def _status(rows: list[Row]) -> int:
    """0, or the first error if there is nothing else."""
    if rows and all(row.error for row in rows):
        first = rows[0]
        raise PagemergeError(
            f"cannot look at process {first.process.pid} ({first.process.name}): {first.error}",
            pid=first.process.pid,
        )
    return 0


def _ordered(rows: list[Row], sort: str, drop_empty: bool) -> list[Row]:
    """``rows`` in the order asked for; among all processes kernel threads are no news."""
    if drop_empty:
        rows = [row for row in rows if not row.memoryless]
    if sort == "name":
        return sorted(rows, key=lambda row: (row.process.name, row.process.pid))
    if sort == "pid":
        return sorted(rows, key=lambda row: row.process.pid)
    return sorted(rows, key=lambda row: (-row.saveable_bytes, bool(row.error), row.process.pid))


def figures(result: Survey, rows: list[Row]) -> dict[str, Any]:
    """The survey as JSON; keys name their units."""
    totals = result.totals
    return {
        "totals": {
            "pages": totals.pages,
            "zero_pages": totals.zero_pages,
            "duplicate_pages_within": totals.duplicate_pages_within,
            "duplicate_pages_across": totals.duplicate_pages_across,
            "already_shared_pages": totals.already_shared_pages,
            "saveable_bytes": totals.saveable_pages * PAGE_SIZE,
            "ineligible_bytes": sum(result.ineligible.values()),
            "ineligible_bytes_by_reason": result.ineligible,
        },
        "processes": [_row_figures(row) for row in rows],
        "page_size": PAGE_SIZE,
        "seconds": round(result.seconds, 6),
        "bytes_read": result.bytes_read,
        "bytes_per_second": round(result.bytes_read / max(result.read_seconds, 1e-9)),
    }


def _row_figures(row: Row) -> dict[str, Any]:
    return {
        "pid": row.process.pid,
        "name": row.process.name,
        "uid": row.process.uid,
        "pages": row.pages,
        "zero_pages": row.zero_pages,
        "duplicate_pages": row.duplicate_pages,
        "saveable_bytes": row.saveable_bytes,
        "unreadable_pages": row.unreadable_pages,
        "ineligible_bytes": sum(row.ineligible.values()),
        "ineligible_bytes_by_reason": row.ineligible,
        "error": row.error or None,
    }


def show(result: Survey, rows: list[Row], console: Console) -> None:
    """The answer in words, then how it comes about, then each process: a line, and below what else
    there is to say of some."""
    from rich.text import Text

    from pagemerge.find.maps import REASONS

    totals = result.totals
    looked_at = [row for row in rows if not row.error]
    answer = Text("Merging would save ")
    answer.append(_bytes(totals.saveable_pages * PAGE_SIZE), style="bold")
    of = f" of {_bytes(totals.pages * PAGE_SIZE)} looked at, in {_processes(len(looked_at))}."
    console.print(answer.append(of), soft_wrap=True)
    for pages, meaning in (
        (totals.zero_pages, "zero pages"),
        (totals.duplicate_pages_within, "duplicates within a process"),
        (totals.duplicate_pages_across, "duplicates across processes"),
        (totals.already_shared_pages, "of these already in shared frames"),
    ):
        tables.show(console, f"  {_bytes(pages * PAGE_SIZE):>9}  {meaning}")
    if result.ineligible:
        tables.show(console, "Cannot be merged, as mapped by each process:")
    for reason, size in sorted(result.ineligible.items(), key=lambda item: -item[1]):
        if size:
            tables.show(console, f"  {_bytes(size):>9}  {reason}: {REASONS[reason]}")
    console.print()
    console.print(_table(rows))
    for line in _notes(rows):
        tables.show(console, line)


def _table(rows: list[Row]) -> Table:
    sizes = ("LOOKED AT", "ZERO", "DUPLICATE", "SAVES")
    table = tables.table(("NAME",), ("PID", "UID", *sizes), ("PID", "NAME", "UID", *sizes))
    for row in rows:
        figures = [row.pages, row.zero_pages, row.duplicate_pages]
        shown = [_bytes(pages * PAGE_SIZE) for pages in figures] + [_bytes(row.saveable_bytes)]
        who = row.process
        if row.error:
            shown = ["-"] * len(sizes)
        tables.add(table, str(who.pid), who.name, str(who.uid), *shown)
    return table


def _notes(rows: list[Row]) -> list[str]:
    """What could not be looked at, and why: a line each; the same of several is said once."""
    said: dict[str, list[Row]] = {}
    for row in rows:
        if told := row.error or _unreadable(row):
            said.setdefault(told, []).append(row)
    found = []
    for told, about in said.items():
        first = about[0].process
        others = f" and {len(about) - 1} more" if len(about) > 1 else ""
        found.append(f"{first.pid} {first.name}{others}: {told}")
    return found


def _unreadable(row: Row) -> str:
    return f"{row.unreadable_pages} pages could not be read" if row.unreadable_pages else ""


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def _bytes(size: float) -> str:
    """``size`` in decimal units with three digits, as in ``1.23 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    digits = 0 if unit == "B" else 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{size:.{digits}f} {unit}"
