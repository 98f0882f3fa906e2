"""The command line: one file for each verb, found by name; a verb's class docstring is its help.

Only the module of the given verb is imported, so that ``pagemerge --help`` stays fast. What it does
import (this module, ``pagemerge`` itself, and what they import) goes without ``typing`` and
``shutil``: they would take a sixth of its time. Type checkers take ``TYPE_CHECKING`` for true.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType

from pagemerge.errors import PagemergeError
from pagemerge.linux.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn, Protocol

    class Verb(Protocol):
        """What the class in each ``cli/<verb>.py`` has; it is named like the verb, capitalised."""

        @staticmethod
        def arguments(parser: argparse.ArgumentParser) -> None:
            """Add the verb's own arguments to ``parser``."""

        @staticmethod
        def run(args: argparse.Namespace) -> int:
            """Run the verb; return the exit status.

            0: done, 1: failed, 2: wrong usage, 77: not possible on this host.
            """


VERBS: dict[str, str] = {
    "demo": "merge real duplicate memory of a few workers, and show what it saved",
    "scan": "show what merging would save; changes nothing",
    "run": "start a program so that its memory is merged",
    "attach": "let the kernel (ksmd) merge the memory of processes that already run",
    "detach": "undo attach: separate what ksmd has merged in these processes",
    "status": "show what the hub has merged, for which processes, and at what cost",
    "history": "show what merging has saved over time, and what the governor decided",
    "metrics": "print the figures of both engines as metrics for Prometheus, or serve them",
    "top": "show what merging saves, live: the host, both engines, each process",
    "daemon": "run a hub, the governor of ksmd, or both, in the foreground",
    "pods": "write rules for the pods of a Kubernetes node, as they ask by annotation",
    "config": "check a configuration file, show all settings, or write a sample",
    "doctor": "show what this host can do, and what would have to change",
}
"""Verb -> its line in ``pagemerge --help``; the verb lives in ``pagemerge.cli.<verb>``."""

LASTING = ("daemon",)
"""Verbs that may be the first process of a container for long (``linux.first``). ``run`` is not one
of them: the program that it starts is to be the first process."""

WIDEST = 96
"""Most columns of a help text."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are plain text: they quote arguments, which may contain anything."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit with 2."""
        super().error(plain(message))


def as_size(text: str) -> int:
    """Read a size such as 512M or 2G; units are powers of 1024, as in QEMU's options."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    figure, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if not figure.isascii() or not figure.isdecimal() or len(figure) > 12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512M or 2G")
    return int(figure) * unit


def as_path(text: str) -> Path:
    """Convert an argument to a path. Raises ``ArgumentTypeError`` if it is empty, because Python
    takes an empty path for ``.``."""
    from pathlib import Path  # a tenth of the time that --help takes

    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def load(name: str) -> type[Verb]:
    """Import the verb ``name`` (a key of ``VERBS``)."""
    module = importlib.import_module(f"pagemerge.cli.{name}")
    verb: type[Verb] = getattr(module, name.capitalize())
    return verb


def overview() -> argparse.ArgumentParser:
    """Make the parser of the bare command: it knows the names of verbs, and imports no verb."""
    from pagemerge import __version__

    width = max(map(len, VERBS))
    lines = "\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items())
    made = Parser(
        prog="pagemerge",
        description="Find identical memory pages across processes, keep one copy of each.",
        epilog=f"verbs:\n{lines}\n\nRun `pagemerge VERB --help` for the help of a verb.",
        # Nothing in it is folded; argparse would import shutil for the width of the terminal.
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=78),
    )
    made.add_argument("--version", action="version", version=f"pagemerge {__version__}")
    made.add_argument("verb", choices=VERBS, metavar="VERB", help="one of the verbs below")
    return made


def parser(name: str) -> argparse.ArgumentParser:
    """Make the parser of the verb ``name`` (a key of ``VERBS``); man pages are made from it."""
    verb = load(name)
    made = Parser(
        prog=f"pagemerge {name}",
        description=_folded(verb.__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.arguments(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (see ``Verb.run``)."""
    from pagemerge.cli import streams

    streams.guard()
    sys.excepthook = _tell_unexpected
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(words)
    except SystemExit as end:  # from argparse, after help or an error, or from SIGTERM
        if isinstance(end.code, int) and (changed := streams.settle("pagemerge", end.code)):
            raise SystemExit(changed) from None
        raise
    return streams.settle(f"pagemerge {words[0]}", status)


def _run(words: list[str]) -> int:
    if not words or words[0] not in VERBS:
        overview().parse_args(words)  # prints help, version or the error, and exits
        return 2
    name, rest = words[0], words[1:]
    if name in LASTING and os.getpid() == 1:
        from pagemerge.linux.first import work_in_child

        args = parser(name).parse_args(rest)
        inside = partial(_told, name, lambda: load(name).run(args))
        return _told(name, lambda: work_in_child(inside, "pagemerge"))
    return _told(name, lambda: load(name).run(parser(name).parse_args(rest)))


def _told(name: str, work: Callable[[], int]) -> int:
    """Do some work for the verb ``name``; an error of ours is printed, and becomes the status."""
    try:
        return work()
    except PagemergeError as error:
        print(_marked(f"pagemerge {name}: {plain(str(error))}"), file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"pagemerge {name}: interrupted", file=sys.stderr)
        return 130


def _marked(line: str) -> str:
    """Mark a line as an error if it goes to systemd's journal."""
    if "JOURNAL_STREAM" not in os.environ:
        return line
    from pagemerge.linux.journal import is_journal, prefixed

    return prefixed(line, 3) if is_journal() else line


def _folded(text: str) -> str:
    """Fold the paragraphs of a docstring to the width of the terminal (COLUMNS), but to ``WIDEST``
    columns at most."""
    from inspect import cleandoc
    from shutil import get_terminal_size

    from pagemerge.cli.show.words import folded

    width = min(get_terminal_size().columns - 2, WIDEST)  # argparse leaves 2 columns free, too
    parts = (folded(part, max(width, 20)) for part in cleandoc(text).split("\n\n"))
    return "\n\n".join("\n".join(part) for part in parts)


def _tell_unexpected(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    """Print a traceback whose text cannot control the terminal, as ``sys.excepthook``."""
    import traceback

    from pagemerge.cli.logs import indented

    told = "".join(traceback.format_exception(kind, error, where)).rstrip("\n")
    print("pagemerge has a fault, and exits:", indented(told), sep="\n", file=sys.stderr)
