"""``pagemerge scan``: what merging would save."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pagemerge.cli.show import tables
from pagemerge.cli.show.words import as_json, number
from pagemerge.cli.show.words import size as rounded
from pagemerge.errors import NoSuchProcess, PagemergeError, UsageError
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pagemerge.find.process import Process
    from pagemerge.find.stable import Stable
    from pagemerge.find.survey import Row, Survey
    from pagemerge.find.tally import Totals

SORTS = ("gain", "name", "pid")


class Scan:
    """Tell what merging identical pages of running processes would save.

    Reads the private anonymous memory of the processes once and counts the pages with the same
    content. It changes nothing and stops no process. It does not read holes or swapped pages. Two
    pages count as duplicates only inside a trust domain: one user in one container.

    Reading other users' processes needs root. The figures hold for the moment of the scan. Pages
    that pagemerge has merged already are counted apart, by the mappings of the processes.

    Exit status: 0 if at least one of the processes could be read, else 1.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the verb to ``parser``."""
        add = parser.add_argument
        add("target", nargs="*", metavar="PID|NAME", help="pids, or names of processes or programs")
        add("--all", action="store_true", help="look at all processes")
        add("--json", action="store_true", help="print figures as JSON")
        add("--sort", choices=SORTS, default="gain", help="order of processes (default: gain)")
        add("--top", type=_count(10**6), metavar="N", help="show the first N processes only")
        add(
            "--threads",
            type=_count(4096),
            default=0,
            metavar="N",
            help="threads that read (default: all processors)",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Look at processes and print; raises an error if it could look at none of them."""
        if bool(args.target) == args.all:
            raise UsageError(
                "name processes by pid or name, or give --all for every process"
                if not args.all
                else "give either processes or --all"
            )
        from pagemerge.cli.show.progress import looking
        from pagemerge.find import process
        from pagemerge.find.survey import survey

        chosen, missing = (process.everyone(), []) if args.all else _named(args.target)
        with looking() as progress:
            result = survey(chosen, args.threads, progress)
        rows = _ordered(result.rows, args.sort, drop_empty=args.all)
        if args.json:
            print(as_json(figures(result, rows, args.top, missing)))
        elif any(not row.error for row in rows):
            show(result, rows, tables.console(), args.top, missing)
        return _status(result.rows)


def _named(words: list[str]) -> tuple[list[Process], list[str]]:
    """Find the processes that ``words`` name, each once, and a message for each word that names
    none.

    Raises ``NoSuchProcess`` if no word names a process.
    """
    from pagemerge.find.process import named

    found: dict[int, Process] = {}
    missing: list[NoSuchProcess] = []
    for word in words:
        try:
            found.update((process.pid, process) for process in named([word]))
        except NoSuchProcess as error:
            missing.append(error)
    if not found:
        raise missing[0]
    return list(found.values()), [str(error) for error in missing]


def _count(most: int) -> Callable[[str], int]:
    """Make a function that reads a number from 1 to ``most``."""

    def read(text: str) -> int:
        is_number = text.isascii() and text.isdecimal() and len(text) < 12
        if not is_number or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
        return int(text)

    return read


def _status(rows: list[Row]) -> int:
    """Return 0; raise the first error if every process has one."""
    if rows and all(row.error for row in rows):
        first = rows[0]
        who = _who(first)
        several = f"any of {len(rows):,} processes, such as " if len(rows) > 1 else ""
        raise PagemergeError(
            f"cannot look at {several}{who}: {first.error}",
            pid=first.pid,
        )
    return 0


def _ordered(rows: list[Row], sort: str, drop_empty: bool) -> list[Row]:
    """Sort ``rows`` by ``sort``; ``drop_empty`` leaves out kernel threads and zombies."""
    if drop_empty:
        rows = [row for row in rows if not row.memoryless]
    if sort == "name":
        return sorted(rows, key=lambda row: (row.name, row.pid or 0))
    if sort == "pid":
        return sorted(rows, key=lambda row: row.pid or 0)
    return sorted(rows, key=lambda row: (-row.saveable_bytes, bool(row.error), row.pid or 0))


def figures(
    result: Survey, rows: list[Row], top: int | None = None, missing: Sequence[str] = ()
) -> dict[str, Any]:
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


def _row_figures(row: Row) -> dict[str, Any]:
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


def show(
    result: Survey,
    rows: list[Row],
    console: Console,
    top: int | None = None,
    missing: Sequence[str] = (),
) -> None:
    """Print the answer in words, then its parts, then one line for each process, then notes."""
    from rich.text import Text

    from pagemerge.find import eligible

    totals, merged = result.totals, result.merged
    looked_at = sum(not row.error for row in result.rows)
    more = " more" if merged.pages else ""
    answer = Text("Merging would save ")
    answer.append(_pages(totals.saveable_pages) + more, style="bold")
    of = f" of {_pages(totals.pages)} looked at, in {number(looked_at, 'process', 'processes')}:"
    console.print(answer.append(of))
    zero, within = totals.saveable_zero_pages, totals.saveable_within_pages
    parts = [
        (_pages(zero), "zero pages"),
        (_pages(within), "duplicates within a process"),
        (_pages(totals.saveable_across_pages), "duplicates across processes"),
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
        texts = [(_size(it), f"{why}: {eligible.REASONS[why]}") for why, it in reasons if it]
        tables.items(console, texts)
    console.print()
    denied = [row for row in rows if row.denied]
    denied = denied if len(denied) > 1 else []
    listed = [row for row in rows if row not in denied]
    console.print(_table(listed[:top], len(denied), console.width))
    if top and (rest := [row for row in listed[top:] if not row.error]):
        saved = _size(sum(row.saveable_bytes for row in rest))
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
            _pages(totals.saveable_pages),
            "the kernel engine, for each user separately, in any process that the user engine "
            "does not merge (`pagemerge attach`, `run --engine kernel`)",
        ),
        (
            _pages(totals.markable_pages),
            "at most the user engine, if programs marked all anonymous mappings (`pagemerge run` "
            "merges what they mark; QEMU marks its guests), and arrays of the Python API",
        ),
    ]


def _saved_before(totals: Totals, merged: Stable) -> list[tuple[str, str]]:
    """List memory that shares its physical pages already."""
    found = []
    if merged.pages:
        kept = f"merged by pagemerge: {_pages(merged.pages)} mapped, kept in {_pages(merged.slots)}"
        found.append((_pages(merged.saved_pages), kept))
    if totals.already_shared_pages:
        shared = "shared since a fork, or merged by Linux"
        found.append((_pages(totals.already_shared_pages), shared))
    return found


def _table(rows: list[Row], denied: int, width: int) -> Table:
    """Make a table: a row for each process, and one for all processes that may not be looked at."""
    sizes: dict[str, Callable[[Row], str]] = {
        "LOOKED AT": lambda row: _pages(row.pages),
        "ZERO": lambda row: _pages(row.zero_pages),
        "DUPLICATE": lambda row: _pages(row.duplicate_pages),
        "SHARED": lambda row: _pages(row.shared_pages),
        "SAVES": lambda row: _size(row.saveable_bytes),
        "MERGED": lambda row: _pages(row.merged_pages),
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
        pages = sum(row.unreadable_pages for row in partly)
        said[f"{number(pages, 'page')} could not be read: unmapped or changed since"] = partly
    found = []
    for told, about in said.items():
        first = about[0]
        others = f" and {len(about) - 1} more" if len(about) > 1 else ""
        found.append(f"{_who(first)}{others}: {told}")
    return found


def _who(row: Row) -> str:
    return row.name if row.pid is None else f"process {row.pid} ({row.name})"


def _pages(pages: int) -> str:
    return _size(pages * PAGE_SIZE)


def _size(count: float) -> str:
    """Write bytes with three digits, because people add them up."""
    return rounded(count, fine=True)
