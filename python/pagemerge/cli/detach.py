"""``pagemerge detach``: opt running processes out of kernel KSM."""

from __future__ import annotations

import argparse

from pagemerge.cli import attach, tables
from pagemerge.cli.words import as_json, number


class Detach:
    """Undo `pagemerge attach`: these processes get pages of their own again.

    Takes as much memory as merging had saved. What a program has marked as mergeable itself (QEMU
    does) is separated, too. Children that it has started since it was attached are processes of
    their own: name them as well. Needs root.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the verb to ``parser``."""
        attach.arguments(parser)

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Detach and print; 1 if one of the processes could not be detached."""
        from pagemerge.merge.attach import detach

        _, targets = attach.ready(args.target)
        rows = [attach.look(target) for target in targets]
        if not args.dry_run:
            rows = [attach.do(row, detach) for row in rows]
        if args.json:
            print(as_json(attach.figures(rows)))
            return attach.status(rows)
        good = number(sum(not row.error for row in rows), "process", "processes")
        verb = "would leave" if args.dry_run else "leaves"
        print(f"ksmd {verb} {good} alone.")
        attach.show(rows, tables.console())
        return attach.status(rows)
