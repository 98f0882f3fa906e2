"""``pagemerge top``."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import time
from typing import TYPE_CHECKING

from pagemerge.cli import as_path
from pagemerge.errors import PagemergeError, Unsupported, UsageError
from pagemerge.watch.top.lines import KINDS, SORTS

if TYPE_CHECKING:
    from pathlib import Path

    from pagemerge.watch.model import Moment
    from pagemerge.watch.top.recent import Recent


class Top:
    """Show what merging saves, live: the host's memory, both engines, and each process.

    The view needs a terminal and the library textual: pip install "pagemerge[tui]". Press ? in it
    for its keys. It asks the daemon of this host, if one runs with --config, and begins its charts
    with what that has recorded; else it reads what `status` reads. Attaching and detaching need
    root.

    --once prints the same figures as text. It reads them twice, --every seconds apart, because
    rates need two readings. With --replay it prints the end of the recording.

    Exit status: 0; 1 if a line of the recording is not a moment (--once); 77 if textual is not
    installed.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the verb to ``parser``."""
        add = parser.add_argument
        add(
            "--every",
            type=_seconds,
            default=1.0,
            metavar="SECONDS",
            help="time between two readings, 0.1 to 3,600 (default: 1)",
        )
        add("--once", action="store_true", help="print the figures as text, and exit")
        add("--sort", choices=SORTS, default="saved", help="order of the rows (default: saved)")
        add(
            "--group-by",
            choices=KINDS,
            default="process",
            metavar="KIND",
            help="what a row stands for: process, guest, unit or user (default: process)",
        )
        add(
            "--replay",
            type=as_path,
            metavar="FILE",
            help="show a recording: lines of JSON, each with the figures of one moment",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Show the view, or print it once."""
        if args.once:
            from pagemerge.cli.show import once, tables

            recent = _read(args.replay, args.every)
            once.show(recent, tables.console(), kind=args.group_by, sort=args.sort)
            return 0
        return _view(args)


def _read(replay: Path | None, every: float) -> Recent:
    """Read all moments of a recording, or two moments of this host."""
    from pagemerge.watch.top.recent import Recent
    from pagemerge.watch.top.source import Live, Recording

    if replay is None:
        with Live() as source:
            recent = Recent([source()])
            time.sleep(every)
            recent.add(source())
        return recent
    with Recording(replay) as moments:
        recent = Recent(moments)
    if recent.moment is None:
        raise PagemergeError(f"the recording {replay} is empty", path=str(replay))
    return recent


def _view(args: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "the view needs a terminal, and standard input or output is none: use --once"
        )
    if os.environ.get("TERM", "dumb") in ("", "dumb"):
        raise UsageError("this terminal cannot move its cursor (TERM): use --once, or set TERM")
    try:
        from pagemerge.watch.top.app import Top as View
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise Unsupported(
            'the view needs textual, which is not installed: pip install "pagemerge[tui]", or '
            "use --once"
        ) from None
    from rich.console import Console

    from pagemerge.watch.top import style
    from pagemerge.watch.top.source import Live, Recording, Source

    with contextlib.ExitStack() as opened:
        source: Source
        past: list[Moment] = []
        if recorded := args.replay is not None:
            source = opened.enter_context(Recording(args.replay))
        else:
            source = live = opened.enter_context(Live())
            past = live.past()
        view = View(
            source, args.every, sort=args.sort, kind=args.group_by, recorded=recorded, past=past
        )
        name = style.theme(os.environ, Console(force_terminal=True).color_system)
        view.theme = name if name in view.available_themes else style.THEMES["dark"]
        view.run()
    return view.return_code or 0


def _seconds(text: str) -> float:
    """Read a time from 0.1 seconds to an hour."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time from 0.1 to 3600 seconds")
    return value
