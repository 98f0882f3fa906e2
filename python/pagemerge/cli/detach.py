"""``pagemerge detach``: opt running processes out of kernel KSM."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pagemerge.cli import attach
from pagemerge.cli.show import tables
from pagemerge.cli.show.progress import separating
from pagemerge.cli.show.words import as_json, number, size

if TYPE_CHECKING:
    from pagemerge.cli.attach import Row


class Detach:
    """Undo `pagemerge attach`: these processes get pages of their own again.

    Takes as much memory as merging had saved. What a program has marked as mergeable itself (QEMU
    does) is separated, too. Children that it has started since it was attached are processes of
    their own: name them as well. Each process is stopped again and again meanwhile, for some
    milliseconds at a time (HELD tells the longest), and runs in between. --dry-run tells how much
    would be separated. Needs root.

    Exit status: 0, 1 if one of the processes could not be detached (the others are) or a name fits
    none (nothing is done then), 77 if kernel KSM cannot be used here.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the verb to ``parser``."""
        attach.arguments(parser)

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Detach and print; 1 if one of the processes could not be detached."""
        _, targets = attach.ready(args.target)
        rows = [attach.look(target) for target in targets]
        rows = [foreseen(row) for row in rows] if args.dry_run else separate(rows)
        if args.json:
            print(as_json(attach.figures(rows)))
            return attach.status(rows)
        console = tables.console()
        if all(row.error for row in rows):
            tables.show(console, "None of them can be detached.")
        else:
            good = number(sum(not row.error for row in rows), "process", "processes")
            verb = "would leave" if args.dry_run else "leaves"
            tables.show(console, f"ksmd {verb} {good} alone{told(rows)}.")
        if args.dry_run:
            attach.show(rows, console, "MERGED", merged)
        else:
            attach.show(rows, console, "SEPARATED", separated)
        return attach.status(rows)


def foreseen(row: Row) -> Row:
    """``row``, what is merged of it, and whether there is anything to undo."""
    from pagemerge.ksmd.attach import merged_bytes
    from pagemerge.linux.ksm import is_mergeable

    nothing = "is not mergeable: there is nothing to undo"
    row = attach.remarked(row, not is_mergeable(row.process.pid), nothing)
    return row if row.error else replace(row, merged_bytes=merged_bytes(row.process.pid))


def separate(rows: list[Row]) -> list[Row]:
    """``rows`` with what came of it; shows progress."""
    from pagemerge.ksmd.attach import detach

    with separating(sum(row.eligible_bytes for row in rows)) as tell:
        return [attach.do(row, partial(detach, progress=tell)) for row in rows]


def merged(row: Row) -> str:
    """What is merged of it now."""
    return "-" if row.merged_bytes is None else size(row.merged_bytes)


def separated(row: Row) -> str:
    """What was merged, and is its own again."""
    parted = row.outcome.separated_bytes if row.outcome else None
    return "-" if parted is None else size(parted)


def told(rows: list[Row]) -> str:
    """How much has been separated, and how long that took, or how much would be; empty if it is
    nothing, or nobody can tell."""
    if ahead := sum(row.merged_bytes or 0 for row in rows):
        return f", and {size(ahead)} of merged memory would be separated"
    done = [row.outcome for row in rows if row.outcome]
    total = sum(one.separated_bytes or 0 for one in done)
    if not total:
        return ""
    took = attach.held(sum(one.seconds for one in done))
    return f": {size(total)} of merged memory separated in {took}"
