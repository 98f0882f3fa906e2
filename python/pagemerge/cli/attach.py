"""``pagemerge attach``: opt running processes in to kernel KSM."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from pagemerge.cli.show.words import as_json
from pagemerge.figures import number

if TYPE_CHECKING:
    from pagemerge.ksmd.model import Selection
    from pagemerge.ksmd.targets import Target


class Attach:
    """Let Linux (ksmd) merge the memory of processes that already run.

    pagemerge stops each process, has it ask the kernel to merge all of its memory, what it maps
    later and its children's too, and lets it go on exactly as it was. The stop takes some tens of
    microseconds if a processor is free, and longer on a busy host; HELD tells how long. A system
    call with a timeout (epoll_wait, recv) can return EINTR, as after any stop by a debugger.

    Kernel KSM is one trust domain, the whole host: by the time that a write takes, a program can
    tell whether another process has a page with the same bytes. So attach refuses to put processes
    of different users together, unless --across-users allows it.

    With --select, pagemerge first finds out which ranges hold duplicates, and marks only those: if
    two thirds of the memory are unique, ksmd then scans the other third only. A huge page (2 MiB)
    with fewer than 32 duplicates is not marked, because ksmd would split it. Memory that the
    process maps later is not marked in that case. --dry-run shows what would be done.

    attach does not change ksmd's settings. `pagemerge detach` undoes it. Needs root.

    Exit status: 0; 1 if one of the processes could not be attached (the others are) or a name fits
    no process (nothing is done then); 77 if kernel KSM cannot be used here.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the verb to ``parser``."""
        arguments(parser)
        parser.add_argument(
            "--select",
            action="store_true",
            help="mark only memory that the finder has seen to be duplicated",
        )
        parser.add_argument(
            "--across-users",
            action="store_true",
            help="allow merging memory of different users with each other",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Attach and print; returns 1 if one of the processes could not be attached."""
        from pagemerge.cli.show import selection, tables
        from pagemerge.cli.show import targets as view
        from pagemerge.cli.show.progress import looking
        from pagemerge.ksmd import targets as ksmd
        from pagemerge.ksmd.attach import attach, users_merged
        from pagemerge.linux.knobs import standstill

        ksm, processes = ksmd.ready(args.target)
        if not args.across_users:
            ksmd.refuse_several_users(processes, users_merged())
        targets = [ksmd.examine(process) for process in processes]
        chosen: dict[int, Selection] = {}
        if args.select:
            with looking() as progress:
                chosen = ksmd.choose(targets, progress)
        elif args.dry_run:
            targets = [ksmd.remarked(it, ksmd.is_whole(it), "is so already") for it in targets]
        if not args.dry_run:
            for at, one in enumerate(targets):
                mark = partial(ksmd.mark, chosen.get(one.process.pid)) if args.select else attach
                targets[at] = ksmd.do(one, mark)
        stands = standstill(ksm.knobs())
        if args.json:
            told = {"selection": selection.figures(list(chosen.values()))} if args.select else {}
            print(as_json({**view.figures(targets), **told, "ksmd_runs": stands is None}))
            return status(targets)
        console = tables.console()
        if view.refused(targets, console, "attached", "MERGED BEFORE"):
            return status(targets)
        if args.select:
            view.show_chosen(list(chosen.values()), console, done=not args.dry_run)
        verb = "could then" if args.dry_run else "may now"
        good = number(sum(not it.error for it in targets), "process", "processes")
        tables.show(console, f"ksmd {verb} merge the memory of {good}.")
        if stands:
            tables.show(
                console,
                f"{stands.reason}, so nothing is merged until that changes: run `pagemerge daemon "
                "--engine kernel`, which starts it when that pays, or write "
                f"{stands.value} to {ksm.root}/{stands.knob}.",
            )
        view.show(targets, console)
        return status(targets)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that ``attach`` and ``detach`` have in common."""
    add = parser.add_argument
    add("target", nargs="+", metavar="PID|NAME", help="pids, or names of processes or programs")
    add("--json", action="store_true", help="print what was done as JSON")
    add("--dry-run", action="store_true", help="print what would be done, and change nothing")


def status(targets: Iterable[Target]) -> int:
    """Return 0, or 1 if one process was left unchanged because of an error."""
    return int(any(target.error for target in targets))
