"""``pagemerge history``."""

from __future__ import annotations

import argparse
import re
import time

from pagemerge.cli import as_path
from pagemerge.errors import PagemergeError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class History:
    """Show what merging has saved over time, and what the governor decided.

    Reads the file that the daemon records while it runs. Moments older than an hour are thinned out
    to two a minute, with the lowest and the highest saving, and deleted after 30 days.

    Exit status: 0, 1 if nothing was recorded in this time or the file is damaged, 2 if there is no
    such file.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        parser.add_argument(
            "--since",
            type=duration_of,
            default="24h",
            metavar="TIME",
            help="how far back: a number and s, m, h, d or w (default: 24h)",
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--json", action="store_true", help="print all moments as JSON")
        how.add_argument("--csv", action="store_true", help="print a line of CSV for each moment")
        how.add_argument("--chart", action="store_true", help="draw the saving over time")
        parser.add_argument(
            "--file",
            type=as_path,
            metavar="PATH",
            help="the history to read (default: PAGEMERGE_HISTORY, else where this user's daemon "
            "records)",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Print it; raises ``PagemergeError`` if nothing was recorded in this time."""
        from pagemerge.cli.show import history as view
        from pagemerge.cli.show import tables
        from pagemerge.watch import history
        from pagemerge.watch.history_file import default_path

        path = args.file or default_path()
        now = time.time()
        since = now - args.since
        with history.History(path, read_only=True) as recorded:
            moments = recorded.read(since)
            if args.json:
                found = view.print_json(moments, str(path))
            elif args.csv:
                found = view.print_csv(moments)
            elif args.chart:
                found = view.show_chart(tables.console(), moments, now)
            else:
                found = view.show(tables.console(), moments, now)
            if not found:
                told = view.nothing(recorded.series(), _written(args.since))
                raise PagemergeError(f"{path}: {told}", path=str(path))
        return 0


def duration_of(text: str) -> int:
    """Read a time such as 90s, 15m, 2h, 3d or 1w, in seconds."""
    found = re.fullmatch(r"([0-9]{1,7})([smhdw])", text)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 15m, 2h, 3d or 1w")
    return int(found[1]) * UNITS[found[2]]


def _written(seconds: int) -> str:
    unit = next(it for it in ("w", "d", "h", "m", "s") if seconds % UNITS[it] == 0)
    return f"{seconds // UNITS[unit]}{unit}"
