"""``pagemerge detach``: opt running processes out of kernel KSM."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pagemerge.cli import attach, tables
from pagemerge.cli.progress import separating
from pagemerge.cli.words import as_json, number, size

if TYPE_CHECKING:
    from pagemerge.cli.attach import Row
    from pagemerge.merge.attach import Outcome


class Detach:
    """Undo `pagemerge attach`: these processes get pages of their own again.

    Takes as much memory as merging had saved. What a program has marked as mergeable itself (QEMU
    does) is separated, too. Children that it has started since it was attached are processes of
    their own: name them as well. Needs root.

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
        rows = [remarked(row) for row in rows] if args.dry_run else separate(rows)
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
        attach.show(rows, console, "SEPARATED", separated)
        return attach.status(rows)


def remarked(row: Row) -> Row:
    """``row``, and whether there is anything to undo."""
    from pagemerge.merge.kernel import is_mergeable

    if row.error or is_mergeable(row.process.pid):
        return row
    return replace(row, remark="is not mergeable: there is nothing to undo")


def separate(rows: list[Row]) -> list[Row]:
    """``rows`` with what came of it; shows progress."""
    from pagemerge.merge.attach import detach

    with separating(sum(row.eligible_bytes for row in rows)) as tell:
        return [attach.do(row, partial(detach, progress=tell)) for row in rows]


def separated(done: Outcome) -> str:
    """What was merged, and is its own again."""
    return "-" if done.separated_bytes is None else size(done.separated_bytes)


def told(rows: list[Row]) -> str:
    """How much has been separated, and how long that took; empty if nothing was, or nobody can
    tell."""
    done = [row.outcome for row in rows if row.outcome]
    total = sum(one.separated_bytes or 0 for one in done)
    if not total:
        return ""
    took = attach.held(sum(one.seconds for one in done))
    return f": {size(total)} of merged memory separated in {took}"
