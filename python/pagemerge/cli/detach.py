"""``pagemerge detach``: opt running processes out of kernel KSM."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pagemerge.cli.attach import arguments, status
from pagemerge.cli.show.words import as_json
from pagemerge.figures import number, size

if TYPE_CHECKING:
    from pagemerge.ksmd.targets import Target


class Detach:
    """Undo `pagemerge attach`: these processes get pages of their own again.

    This takes as much memory as merging had saved. detach also separates the memory that a program
    has marked as mergeable itself, as QEMU does. Children that a process has started since it was
    attached are processes of their own: name them as well. pagemerge stops each process again and
    again, for some milliseconds at a time (HELD tells the longest), and lets it run in between.
    --dry-run tells how much memory would be separated. Needs root.

    Exit status: 0; 1 if one of the processes could not be detached (the others are) or a name fits
    no process (nothing is done then); 77 if kernel KSM cannot be used here.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the verb to ``parser``."""
        arguments(parser)

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Detach and print; returns 1 if one of the processes could not be detached."""
        from pagemerge.cli.show import tables
        from pagemerge.cli.show import targets as view
        from pagemerge.ksmd import targets as ksmd

        _, processes = ksmd.ready(args.target)
        targets = [ksmd.examine(process) for process in processes]
        targets = [foreseen(it) for it in targets] if args.dry_run else separate(targets)
        if args.json:
            print(as_json(view.figures(targets)))
            return status(targets)
        console = tables.console()
        if view.refused(targets, console, "detached", "SEPARATED"):
            return status(targets)
        good = number(sum(not it.error for it in targets), "process", "processes")
        verb = "would leave" if args.dry_run else "leaves"
        tables.show(console, f"ksmd {verb} {good} alone{told(targets)}.")
        if args.dry_run:
            view.show(targets, console, "MERGED", merged)
        else:
            view.show(targets, console, "SEPARATED", separated)
        return status(targets)


def foreseen(target: Target) -> Target:
    """Add to ``target`` how much of it is merged, or a remark if there is nothing to undo."""
    from pagemerge.ksmd.attach import merged_bytes
    from pagemerge.ksmd.targets import remarked
    from pagemerge.linux.aside import readers
    from pagemerge.linux.ksm import is_mergeable
    from pagemerge.linux.waiting import Unanswered

    if target.error:
        return target
    pid, nothing = target.process.pid, "is not mergeable: there is nothing to undo"
    try:
        target = remarked(target, not readers.call(pid, is_mergeable, pid), nothing)
        return replace(target, merged_bytes=readers.call(pid, merged_bytes, pid))
    except Unanswered as error:
        return replace(target, error=str(error))


def separate(targets: list[Target]) -> list[Target]:
    """Detach ``targets``, and return them with their outcomes; shows progress."""
    from pagemerge.cli.show.progress import separating
    from pagemerge.ksmd.attach import detach
    from pagemerge.ksmd.targets import do

    with separating(sum(target.eligible_bytes for target in targets)) as tell:
        return [do(target, partial(detach, progress=tell)) for target in targets]


def merged(target: Target) -> str:
    """Write how much of a process is merged now."""
    return "-" if target.merged_bytes is None else size(target.merged_bytes)


def separated(target: Target) -> str:
    """Write how much merged memory of a process was separated."""
    parted = target.outcome.separated_bytes if target.outcome else None
    return "-" if parted is None else size(parted)


def told(targets: list[Target]) -> str:
    """Write how much was separated and how long that took, or how much would be separated; empty
    if that is nothing or not known."""
    from pagemerge.cli.show.targets import held

    if ahead := sum(target.merged_bytes or 0 for target in targets):
        return f", and {size(ahead)} of merged memory would be separated"
    done = [target.outcome for target in targets if target.outcome]
    total = sum(one.separated_bytes or 0 for one in done)
    if not total:
        return ""
    return f": {size(total)} of merged memory separated in {held(sum(it.seconds for it in done))}"
