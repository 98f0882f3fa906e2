"""``pagemerge demo``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING

from pagemerge import _core
from pagemerge.cli.show import tables, words
from pagemerge.errors import Unsupported
from pagemerge.linux.text import plain

if TYPE_CHECKING:
    from pagemerge.demo.outcome import Outcome

BARRIERS = ("auto", *_core.BARRIERS.values())


class Demo:
    """Merge real duplicate memory of a few workers, and show what it saved.

    The demo starts a hub and some workers. Each worker loads the same real files into mergeable
    memory, adds random data, and has one thread that never stops writing to a part of it. The demo
    merges their memory and measures it by the kernel's own accounts, before and after. Then it
    verifies every page, and has one worker write to shared pages: only that worker may change.

    With a full-mode userfaultfd (root, CAP_SYS_PTRACE, or access to /dev/userfaultfd) the hub
    merges in the background. Without it, the workers merge what they have loaded themselves.

    Exit status: 0; 1 if contents differ, a write was lost, or less than 95% of the expected memory
    was saved (the workers may take half a megabyte each for themselves meanwhile); 77 if this host
    does not allow the barrier that --barrier names.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add --workers, --size, --barrier and --json."""
        parser.add_argument(
            "--workers",
            type=workers,
            default=4,
            metavar="N",
            help="number of worker processes, at least 2 (default: 4)",
        )
        parser.add_argument(
            "--size",
            type=megabytes,
            default=128,
            metavar="MB",
            help="real data that each worker loads, in MB, at least 4 (default: 128)",
        )
        parser.add_argument(
            "--barrier",
            choices=BARRIERS,
            help="barrier to use (default: PAGEMERGE_BARRIER, else what the host allows)",
        )
        parser.add_argument("--json", action="store_true", help="print all figures as JSON")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Run the demo and print its outcome; returns 1 if the outcome has faults."""
        from pagemerge.cli.show.demo import progress
        from pagemerge.demo.play import Settings, play
        from pagemerge.hub import reach

        barrier = args.barrier or reach.barrier()
        refuse_another(barrier)
        settings = Settings(args.workers, args.size * 1_000_000, barrier)
        with sigterm_unwinds(), progress() as tell:
            outcome = play(settings, tell)
        report(outcome, as_json=args.json, asked_bytes=settings.loaded_bytes)
        for fault in outcome.faults():
            print(f"pagemerge demo: {plain(str(fault))}", file=sys.stderr)
        return 1 if outcome.faults() else 0


def refuse_another(barrier: str) -> None:
    """Raise ``Unsupported`` if workers would get another barrier than the one asked for."""

    given, reason = _core.probe_barrier(barrier)
    if barrier != "auto" and _core.BARRIERS[given] != barrier:
        raise Unsupported(
            f"this host does not allow that barrier: {reason}; without --barrier the demo uses "
            "the best barrier that the host allows"
        )


def report(outcome: Outcome, *, as_json: bool, asked_bytes: int) -> None:
    """Print ``outcome`` on stdout."""
    if as_json:
        print(words.as_json(asdict(outcome)))
        return
    from pagemerge.cli.show import demo as show
    from pagemerge.figures import size

    show.told(outcome, tables.console())
    if outcome.loaded_bytes < asked_bytes - outcome.page_size:
        print(
            f"This machine has {size(outcome.loaded_bytes)} of different files to load; "
            f"--size asks for {size(asked_bytes)}."
        )


def workers(text: str) -> int:
    """Parse a number of processes, as a type for argparse: at least two, so that they can share."""
    return at_least(2, text, "processes: one alone has nothing to share")


def megabytes(text: str) -> int:
    """Parse a number of MB, as a type for argparse.

    It must be large enough to be visible beside the memory that an interpreter needs itself.
    """
    return at_least(4, text, "MB: less is hidden by the memory that the processes need themselves")


def at_least(least: int, text: str, of_what: str) -> int:
    """Parse a whole number; raises an error that gives the least value and the reason."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is too few: at least {least} {of_what}")
    return number


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Have SIGTERM raise ``SystemExit`` inside the context, so that all started processes end."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
