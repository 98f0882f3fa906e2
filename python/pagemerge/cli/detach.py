"""``pagemerge detach``: opt running processes out of kernel KSM."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pagemerge.cli import attach, tables
from pagemerge.cli.progress import looking
from pagemerge.cli.words import as_json, number, size
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from pagemerge.cli.attach import Row


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
        _, targets = attach.ready(args.target)
        rows = [attach.look(target) for target in targets]
        separated: dict[int, int | None] = {}
        if not args.dry_run:
            rows, separated = separate(rows)
        if args.json:
            told = attach.figures(rows)
            for row in told["processes"]:
                pages = separated.get(row["pid"])
                row["separated_bytes"] = None if pages is None else pages * PAGE_SIZE
            print(as_json(told))
            return attach.status(rows)
        good = number(sum(not row.error for row in rows), "process", "processes")
        verb = "would leave" if args.dry_run else "leaves"
        print(f"ksmd {verb} {good} alone{own(separated)}.")
        attach.show(rows, tables.console())
        return attach.status(rows)


def separate(rows: list[Row]) -> tuple[list[Row], dict[int, int | None]]:
    """``rows`` with what came of it, and how many pages of each process (pid) are its own again.

    None where nobody can tell.
    """
    from functools import partial

    from pagemerge.find.merged import merged_pages
    from pagemerge.merge.attach import detach

    pids = [row.process.pid for row in rows if not row.error]
    before = {pid: merged_pages(pid) for pid in pids}
    total, done = sum(end - start for row in rows for start, end in row.ranges), 0
    with looking("separating") as progress:

        def tell(count: int) -> None:
            nonlocal done
            done += count
            progress(done // PAGE_SIZE, total // PAGE_SIZE)

        rows = [attach.do(row, partial(detach, progress=tell)) for row in rows]
    failed = {row.process.pid for row in rows if row.error}  # it has ended, say
    separated: dict[int, int | None] = {}
    for pid, pages in before.items():
        left = None if pid in failed else merged_pages(pid)
        separated[pid] = None if pages is None or left is None else max(pages - left, 0)
    return rows, separated


def own(separated: dict[int, int | None]) -> str:
    """In words, how much has been separated; empty where nobody can tell."""
    known = [pages for pages in separated.values() if pages is not None]
    if not known:
        return ""
    pages = number(sum(known), "page")
    return f": {pages} ({size(sum(known) * PAGE_SIZE)}) they had in common are their own now"
