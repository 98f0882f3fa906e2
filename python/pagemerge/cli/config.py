"""``pagemerge config``: checks, shows and writes configuration files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pagemerge.cli import as_path
from pagemerge.errors import UsageError
from pagemerge.linux.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pagemerge.config import Configuration
    from pagemerge.settings.check import Checked
    from pagemerge.settings.parse import Problem


class Config:
    """Check a configuration file, show all settings, or write a sample.

    `pagemerge config check FILE` lists everything that is wrong with a file, with line and key. It
    warns of rules that have no effect. If the file is right, it says in one line what a daemon
    would do with it.

    `pagemerge config show [FILE]` prints every setting: its value, where that comes from, its unit
    and its meaning.

    `pagemerge config init [FILE]` prints a sample with all settings and their defaults, or writes
    it to a new file.

    Exit status: 0, or 2 if the file is wrong, or cannot be read or written.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the actions, each with its arguments."""
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        check = actions.add_parser("check", help="list everything that is wrong with a file")
        check.add_argument("file", metavar="FILE", type=as_path, help="configuration file")
        show = actions.add_parser("show", help="print every setting and where it comes from")
        show.add_argument(
            "file",
            metavar="FILE",
            type=as_path,
            nargs="?",
            help="configuration file; without one, the defaults are shown",
        )
        show.add_argument("--json", action="store_true", help="print the settings as JSON")
        show.add_argument(
            "--cpu",
            type=float,
            metavar="PERCENT",
            help="as for `pagemerge daemon` (default: cpu_percent)",
        )
        show.add_argument(
            "--socket", type=as_path, help="as for `pagemerge daemon` (default: PAGEMERGE_SOCKET)"
        )
        init = actions.add_parser("init", help="print or write a sample with all settings")
        init.add_argument(
            "file",
            metavar="FILE",
            type=as_path,
            nargs="?",
            help="file to write; without one, the sample is printed",
        )
        init.add_argument("--force", action="store_true", help="replace the file if it exists")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Run the action; returns 2 if the file is wrong."""
        return {"check": _check, "show": _show, "init": _init}[args.action](args)


def _check(args: argparse.Namespace) -> int:
    from pagemerge.cli.show.settings import summary
    from pagemerge.config import examine, warnings

    found = examine(args.file)
    if found.value is None:
        return _refuse(args.file, found)
    _tell(args.file, warnings(found), "warning: ")
    print(f"{plain(str(args.file))} is right: {summary(found.value)}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from pagemerge.cli.show import settings, tables
    from pagemerge.cli.show.words import as_json
    from pagemerge.config import Configuration, examine
    from pagemerge.settings.check import Checked
    from pagemerge.settings.source import Source

    found = Checked(Configuration(), (), Source(""))
    if args.file:
        found = examine(args.file)
    if found.value is None:
        return _refuse(args.file, found)
    rows = settings.rows(found.value, found.source, args.cpu, args.socket)
    if args.json:
        print(as_json(settings.figures(rows, args.file)))
    else:
        settings.show(rows, args.file, tables.console())
    return 0


def _init(args: argparse.Namespace) -> int:
    from pagemerge.config import Configuration
    from pagemerge.settings.file import write
    from pagemerge.settings.sample import sample

    text = sample(Configuration, "pagemerge config init")
    if args.file:
        write(args.file, text, force=args.force)
    elif args.force:
        raise UsageError("--force needs a FILE to replace: give one, or leave --force out")
    else:
        print(text, end="")
    return 0


def _refuse(path: Path, found: Checked[Configuration]) -> int:
    _tell(path, found.problems)
    return UsageError.exit_status


def _tell(path: Path, problems: Iterable[Problem], kind: str = "") -> None:
    for it in problems:
        print(f"{plain(str(path))}:{it.line}: {kind}{plain(it.message)}", file=sys.stderr)
