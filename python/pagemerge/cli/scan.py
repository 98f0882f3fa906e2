"""``pagemerge scan``: what merging would save."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pagemerge.cli import as_path, as_size
from pagemerge.cli.show import tables
from pagemerge.cli.show.survey import who
from pagemerge.cli.show.words import as_json
from pagemerge.errors import NoSuchProcess, PagemergeError, UsageError
from pagemerge.figures import number, size

if TYPE_CHECKING:
    from pathlib import Path

    from pagemerge.cli.show.printed_scan import AnswerFigures
    from pagemerge.estimate.answer import Questions
    from pagemerge.find.images import ImageSource
    from pagemerge.find.look import Progress
    from pagemerge.find.process import Process
    from pagemerge.find.sources import Source
    from pagemerge.find.survey import Row

SORTS = ("gain", "name", "pid")
GROUPS = ("process", "guest", "container", "unit", "user", "domain")


class Scan:
    """Tell what merging identical pages of processes and memory images would save.

    Reads the private anonymous memory of the processes once and counts the pages with the same
    content. It changes nothing and stops no process. It does not read holes or swapped pages. Two
    pages count as duplicates only inside a trust domain: one user in one container. Images count
    as memory of the user who asks.

    Reading other users' processes needs root. The figures hold for the moment of the scan. Pages
    that pagemerge has merged already are counted apart, by the mappings of the processes. Options
    ask for more: what the duplicates are, who shares them, whether they last, why memory does not
    merge, how many more processes fit, and what compression would save.

    Exit status: 0 if at least one of the processes could be read, else 1.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the verb to ``parser``."""
        add = parser.add_argument
        add("target", nargs="*", metavar="PID|NAME", help="pids, or names of processes or programs")
        add("--all", action="store_true", help="look at all processes")
        add(
            "--image",
            type=as_path,
            action="append",
            default=[],
            metavar="FILE",
            help="look at a memory image, too: a core dump, a guest's saved memory, LiME, or raw "
            "memory; may be given several times",
        )
        _add_questions(parser.add_argument_group("questions"))
        add = parser.add_argument_group("output").add_argument
        add("--json", action="store_true", help="print figures as JSON")
        add(
            "--report",
            type=as_path,
            metavar="FILE",
            help="write a page of HTML, too; needs pagemerge[report]",
        )
        add("--sort", choices=SORTS, default="gain", help="order of the processes (default: gain)")
        add(
            "--top",
            type=_count(10**6),
            metavar="N",
            help="show the first N processes only, 1 to 1,000,000 (default: all)",
        )
        add(
            "--threads",
            type=_count(4096),
            default=0,
            metavar="N",
            help="number of threads that read, 1 to 4,096 (default: one per processor)",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Look at processes and print; raises an error if it could look at none of them."""
        _check(args)
        if args.report:
            from pagemerge.report import page

            page.check(args.report)  # before the long work
        images = _images(args.image)
        choose, missing = _chooser(args)
        if args.sample:
            return _sample(args, choose(), images, missing)
        return _answer(args, choose, images, missing)


def figures(args: argparse.Namespace, progress: Progress) -> AnswerFigures:
    """Return what ``--json`` prints about processes.

    Raises what the verb raises. ``progress`` is called with the pages done and the pages to do.
    """
    from pagemerge.cli.show import answer as view
    from pagemerge.estimate.answer import answer

    _check(args)
    choose, missing = _chooser(args)
    result = answer(choose, [], _questions(args), progress)
    _status(result.survey.rows)
    rows = _ordered(result.survey.rows, args.sort, drop_empty=args.all)
    return view.figures(result, rows, args.top, missing)


def _chooser(args: argparse.Namespace) -> tuple[Callable[[], list[Process]], list[str]]:
    """Return a function that finds the processes, and a list that it fills with a message for each
    word that names none."""
    from pagemerge.find import process

    missing: list[str] = []

    def choose() -> list[Process]:
        if args.all:
            return process.everyone()
        found, missing[:] = _named(args.target) if args.target else ([], [])
        return found

    return choose, missing


def _images(paths: Sequence[Path]) -> list[ImageSource]:
    """Open memory images; they count as memory of the user who asks, as processes of their own."""
    if not paths:
        return []
    from pagemerge.find.images import open_image
    from pagemerge.linux.domain import namespaces, of_process

    own = of_process(os.getpid(), os.geteuid(), namespaces("self"))
    opened = (open_image(path, own) for path in paths)
    return list({image.file.identity: image for image in opened}.values())  # each file once


def _add_questions(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--what", action="store_true", help="say what the duplicated pages are")
    add(
        "--group-by",
        choices=GROUPS,
        metavar="KIND",
        help=f"say who shares with whom, by {', '.join(GROUPS[:-1])} or {GROUPS[-1]}",
    )
    add("--why", action="store_true", help="say why memory does not merge, and what to do")
    add(
        "--watch",
        type=_seconds,
        metavar="SECONDS",
        help="look several times, and say which duplicates last; 0.1 to 604,800",
    )
    add(
        "--every",
        type=_seconds,
        metavar="SECONDS",
        help="time between two looks (default: 10, or half of --watch if that is less)",
    )
    add(
        "--fit",
        metavar="PROCESS",
        help="say how many more processes like this one (pid or name) fit",
    )
    add(
        "--reserve",
        type=as_size,
        metavar="SIZE",
        help="memory that --fit leaves free, such as 512M or 2G (default: 0)",
    )
    add(
        "--compress",
        action="store_true",
        help="compare merging with compression (zram); needs pagemerge[estimate]",
    )
    add("--sample", action="store_true", help="estimate from a sample of pages, in little memory")
    add(
        "--draw",
        type=_count(10**6),
        metavar="PAGES",
        help="pages of the sample, 1 to 1,000,000 (default: 10,000)",
    )


def _check(args: argparse.Namespace) -> None:
    """Raise ``UsageError`` for options that do not go together."""
    if args.all and args.target:
        raise UsageError("give either processes or --all")
    if not (args.all or args.target or args.image):
        raise UsageError(
            "name processes by pid or name, or give --all for every process, or --image FILE"
        )
    for option, needs in (("every", "watch"), ("reserve", "fit"), ("draw", "sample")):
        if getattr(args, option) is not None and not getattr(args, needs):
            raise UsageError(f"--{option} goes with --{needs}")
    from pagemerge.linux.accounts import total_bytes

    if args.reserve and args.reserve > (most := total_bytes()):
        raise UsageError(f"--reserve: this host has {size(most)} in all, so nothing would fit")
    if args.watch and args.image:
        raise UsageError("--watch goes with processes only: an image does not change")
    others = ("what", "group_by", "why", "watch", "fit", "compress", "report")
    if args.sample and (with_it := [it for it in others if getattr(args, it)]):
        option = with_it[0].replace("_", "-")
        raise UsageError(f"--{option} needs to know all pages: leave --sample out")


def _answer(
    args: argparse.Namespace,
    choose: Callable[[], list[Process]],
    images: Sequence[Source],
    missing: list[str],
) -> int:
    from pagemerge.cli.show import answer as view
    from pagemerge.cli.show.progress import looking
    from pagemerge.estimate.answer import answer

    with looking() as progress:
        result = answer(choose, images, _questions(args), progress)
    rows = _ordered(result.survey.rows, args.sort, drop_empty=args.all)
    if args.json:
        print(as_json(view.figures(result, rows, args.top, missing)))
    elif any(not row.error for row in rows):
        view.show(result, rows, tables.console(), args.top, missing)
    if args.report and any(not row.error for row in rows):
        from pagemerge.report import page

        page.write(view.figures(result, rows, None, missing), args.report)
    return _status(result.survey.rows)


def _sample(
    args: argparse.Namespace,
    chosen: Sequence[Process],
    images: Sequence[Source],
    missing: list[str],
) -> int:
    """Estimate from a sample; the exit status and the errors are as for a full scan."""
    from pagemerge.cli.show import sample as view
    from pagemerge.cli.show.progress import looking
    from pagemerge.estimate.answer import notes
    from pagemerge.estimate.sample import PAGES, estimate
    from pagemerge.find.sources import located

    sources = [*located(chosen), *images]
    with looking() as progress:
        result = estimate(sources, args.draw or PAGES, args.threads, progress)
    if not result.total.sources:
        name, error = result.errors[0]
        several = number(len(sources), "source")
        raise PagemergeError(f"cannot look at any of {several}, such as {name}: {error}")
    if args.json:
        said = [{"name": name, "note": note} for name, note in notes(images)]
        print(as_json({"sample": view.figures(result), "not_found": missing, "notes": said}))
    else:
        view.show(tables.console(), result)
        for line in [*missing, *(f"{name}: {note}" for name, note in notes(images))]:
            tables.show(tables.console(), line)
    return 0


def _questions(args: argparse.Namespace) -> Questions:
    from pagemerge.estimate.answer import Questions

    return Questions(
        what=args.what,
        group_by=args.group_by or "",
        why=args.why,
        everyone=args.all,
        compress=args.compress,
        fit=args.fit or "",
        reserve_bytes=args.reserve or 0,
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
