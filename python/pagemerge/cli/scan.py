"""``pagemerge scan``: what merging would save."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.cli.show.survey import who
from pagemerge.cli.show.words import as_json
from pagemerge.errors import NoSuchProcess, PagemergeError, UsageError

if TYPE_CHECKING:
    from pagemerge.estimate.answer import Questions
    from pagemerge.find.process import Process
    from pagemerge.find.survey import Row

SORTS = ("gain", "name", "pid")
GROUPS = ("process", "guest", "container", "unit", "user", "domain")


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
        add("--what", action="store_true", help="say what the duplicated pages are")
        add(
            "--group-by",
            choices=GROUPS,
            metavar="KIND",
            help=f"say who shares with whom, by {', '.join(GROUPS[:-1])} or {GROUPS[-1]}",
        )
        add(
            "--watch",
            type=_seconds,
            metavar="SECONDS",
            help="look several times, and say which duplicates last",
        )
        add(
            "--every",
            type=_seconds,
            metavar="SECONDS",
            help="time between two looks (default: 10, or half of --watch if that is less)",
        )
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
        from pagemerge.cli.show import answer as view
        from pagemerge.cli.show.progress import looking
        from pagemerge.estimate.answer import answer
        from pagemerge.find import process

        missing: list[str] = []

        def choose() -> list[Process]:
            if args.all:
                return process.everyone()
            found, missing[:] = _named(args.target)
            return found

        with looking() as progress:
            result = answer(choose, [], _questions(args), progress)
        rows = _ordered(result.survey.rows, args.sort, drop_empty=args.all)
        if args.json:
            print(as_json(view.figures(result, rows, args.top, missing)))
        elif any(not row.error for row in rows):
            view.show(result, rows, tables.console(), args.top, missing)
        return _status(result.survey.rows)


def _questions(args: argparse.Namespace) -> Questions:
    from pagemerge.estimate.answer import Questions

    if args.every is not None and args.watch is None:
        raise UsageError("--every goes with --watch SECONDS")
    return Questions(
        what=args.what,
        group_by=args.group_by or "",
        watch_seconds=args.watch or 0.0,
        every_seconds=args.every or min(10.0, (args.watch or 0.0) / 2),
        threads=args.threads,
    )


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


def _seconds(text: str) -> float:
    """Read a time from 0.1 seconds to a week."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.1 <= value <= 7 * 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time from 0.1 to 604800 seconds")
    return value


def _status(rows: list[Row]) -> int:
    """Return 0; raise the first error if every process has one."""
    if rows and all(row.error for row in rows):
        first = rows[0]
        whom = who(first)
        several = f"any of {len(rows):,} processes, such as " if len(rows) > 1 else ""
        raise PagemergeError(
            f"cannot look at {several}{whom}: {first.error}",
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
