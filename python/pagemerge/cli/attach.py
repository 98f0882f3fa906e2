"""``pagemerge attach``: opt running processes in to kernel KSM."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pagemerge.cli.show import tables
from pagemerge.cli.show.words import as_json, duration, number
from pagemerge.errors import PagemergeError, Unsupported, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.find.process import Process
    from pagemerge.ksmd.attach import Outcome
    from pagemerge.ksmd.model import Selection
    from pagemerge.linux.ksm import Ksm


class Attach:
    """Let Linux (ksmd) merge the memory of processes that already run.

    Each is stopped (for some tens of microseconds where a processor is free, longer on a busy host:
    HELD tells), asks the kernel itself to have all of its memory
    merged, what it maps later and its children's too, and goes on exactly as it was. Some system
    calls can return early, as after any stop by a debugger: docs/kernel.md lists them.

    Kernel KSM is one trust domain, the whole host: by the time that a write takes, a program can
    tell whether anybody else has a page with the same bytes. So processes of different users are
    not put into it together, unless --across-users says so.

    With --select the finder looks first, and only ranges that hold duplicates are marked: ksmd then
    looks at a third of the pages where two thirds are unique. What the process maps later is not
    marked then. --dry-run shows what would be.

    ksmd's own settings are left alone. Undo with `pagemerge detach`. Needs root.

    Exit status: 0, 1 if one of the processes could not be attached (the others are) or a name fits
    none (nothing is done then), 77 if kernel KSM cannot be used here.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the verb to ``parser``."""
        arguments(parser)
        parser.add_argument(
            "--select", action="store_true", help="mark only what is seen to be duplicated"
        )
        parser.add_argument(
            "--across-users",
            action="store_true",
            help="merge memory of different users with each other",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Attach and print; 1 if one of the processes could not be attached."""
        from pagemerge.cli.show import selection
        from pagemerge.ksmd.attach import attach, users_merged
        from pagemerge.linux.knobs import standstill

        ksm, targets = ready(args.target)
        if not args.across_users:
            refuse_several_users(targets, users_merged())
        rows = [look(target) for target in targets]
        if args.dry_run and not args.select:
            rows = [remarked(row, is_whole(row), "is so already") for row in rows]
        chosen = choose(rows) if args.select else {}
        if not args.dry_run:
            if args.select:
                rows = [do(row, partial(mark, chosen.get(row.process.pid))) for row in rows]
            else:
                rows = [do(row, attach) for row in rows]
        stands = standstill(ksm.knobs())
        if args.json:
            told = {"selection": selection.figures(list(chosen.values()))} if args.select else {}
            print(as_json({**figures(rows), **told, "ksmd_runs": stands is None}))
            return status(rows)
        console = tables.console()
        if all(row.error for row in rows):
            tables.show(console, "None of them can be attached.")
            show(rows, console)
            return status(rows)
        if args.select:
            show_chosen(list(chosen.values()), console, done=not args.dry_run)
        verb = "could then" if args.dry_run else "may now"
        good = number(sum(not row.error for row in rows), "process", "processes")
        tables.show(console, f"ksmd {verb} merge the memory of {good}.")
        if stands:
            tables.show(
                console,
                f"{stands.reason}, so nothing is merged until that changes: `pagemerge daemon "
                "--engine kernel` runs it while that pays, or write "
                f"{stands.value} to {ksm.root}/{stands.knob}.",
            )
        show(rows, console)
        return status(rows)


@dataclass(frozen=True, slots=True)
class Row:
    """One process: what stands in the way, or what was done."""

    process: Process
    ranges: tuple[tuple[int, int], ...] = ()
    """What of it can be merged, when it was looked at."""
    error: str = ""
    outcome: Outcome | None = None
    remark: str = ""
    """What else is to be said of it."""
    merged_bytes: int | None = None
    """What ksmd has merged of it; None where nobody has asked, or the kernel does not tell."""

    @property
    def eligible_bytes(self) -> int:
        """How much of it can be merged."""
        return sum(end - start for start, end in self.ranges)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that ``attach`` and ``detach`` have in common."""
    add = parser.add_argument
    add("target", nargs="+", metavar="PID|NAME", help="pids, or names of processes or programs")
    add("--json", action="store_true", help="print what was done as JSON")
    add("--dry-run", action="store_true", help="say what would be done, and do nothing")


def ready(words: Iterable[str]) -> tuple[Ksm, list[Process]]:
    """Kernel KSM, and the processes that ``words`` name.

    Raises ``Unsupported`` where there is no kernel KSM or it is not this user's to use.
    """
    from pagemerge.find.process import named
    from pagemerge.linux.ksm import Ksm

    ksm = Ksm()
    if reason := ksm.lack():  # our own engine is no way to reach a program that runs already
        raise Unsupported(reason)
    return ksm, named(words)


def refuse_several_users(targets: Iterable[Process], merged: Mapping[int, list[int]]) -> None:
    """Raise ``UsageError`` if different users' memory would be merged with each other.

    ``merged``: the processes that kernel KSM has already, as ``users_merged`` tells them.
    """
    from pagemerge.ksmd.attach import listed

    users = {target.uid for target in targets}
    others = {uid: pids for uid, pids in merged.items() if uid not in users}
    if len(users) + len(others) <= 1:
        return
    who = f"they belong to {', '.join(f'uid {uid}' for uid in sorted(users))}"
    if others:
        who = f"kernel KSM already has processes of {listed(others)}"
    raise UsageError(
        f"{who}, and kernel KSM is one trust domain: each could tell by timing which "
        "pages the others have. --across-users merges them all the same"
    )


def look(target: Process) -> Row:
    """What can be merged of ``target``, or what stands in the way; does nothing to it."""
    from pagemerge import _core
    from pagemerge.find.eligible import eligible
    from pagemerge.find.engine import merged_by_us
    from pagemerge.find.process import explain
    from pagemerge.linux.maps import mappings

    try:
        _core.inject_check(target.pid)
        found = mappings(target.pid)
        if reason := merged_by_us(target.pid, found):
            return Row(target, error=reason)
        return Row(target, ranges=tuple(eligible(target.pid, found)))
    except PagemergeError as error:
        return Row(target, error=explain(error, target))


def choose(rows: Iterable[Row]) -> dict[int, Selection]:
    """What is worth being marked in each process that can be attached, by pid."""
    from pagemerge.cli.show.progress import looking
    from pagemerge.find.process import everyone
    from pagemerge.ksmd.selecting import select
    from pagemerge.linux.ksm import is_mergeable

    wanted = [row.process for row in rows if not row.error]
    pids = {process.pid for process in wanted}
    beside = [it for it in everyone() if it.pid not in pids and is_mergeable(it.pid)]
    with looking() as progress:
        found = select(wanted, beside, progress=progress)
    return {one.pid: one for one in found}


def mark(chosen: Selection | None, pid: int, name: str, _: Callable[[], Ranges]) -> Outcome:
    """Attach the chosen ranges of a process."""
    from pagemerge.ksmd.attach import attach

    if chosen is None or chosen.error:
        raise PagemergeError(chosen.error if chosen else "it has gone", pid=pid)
    return attach(pid, name, lambda: chosen.ranges, "madvise")


def show_chosen(chosen: list[Selection], console: Console, *, done: bool) -> None:
    """What the finder has found worth marking; ``done``: it is marked now."""
    from pagemerge.cli.show import selection

    tables.show(console, selection.sentence(chosen, done=done))
    console.print()
    console.print(selection.processes(chosen, console.width))
    for line in selection.notes(chosen):
        tables.show(console, line)
    console.print()


Ranges = tuple[tuple[int, int], ...]
Action = Callable[[int, str, Callable[[], Ranges]], "Outcome"]


def do(row: Row, action: Action) -> Row:
    """``row`` with what came of it."""
    from pagemerge.find.process import explain

    if row.error:
        return row
    who = row.process
    try:
        return Row(who, row.ranges, "", action(who.pid, who.name, lambda: row.ranges))
    except PagemergeError as error:
        return Row(who, row.ranges, explain(error, who))


def is_whole(row: Row) -> bool:
    """May ksmd merge all of a process already?"""
    from pagemerge.linux.ksm import process_ksm

    try:
        return bool(process_ksm(row.process.pid).merge_any)
    except PagemergeError:
        return False


def remarked(row: Row, applies: bool, remark: str) -> Row:
    """``row`` with a remark, if that applies and nothing worse is to be said."""
    return replace(row, remark=remark) if applies and not row.error else row


def status(rows: Iterable[Row]) -> int:
    """0, or 1 if one process was left as it is."""
    return int(any(row.error for row in rows))


def figures(rows: Iterable[Row]) -> dict[str, Any]:
    """What was done, as JSON; keys name their units."""
    from dataclasses import asdict

    return {
        "processes": [
            {
                "pid": row.process.pid,
                "name": row.process.name,
                "uid": row.process.uid,
                "eligible_bytes": row.eligible_bytes,
                "error": row.error or None,
                "remark": row.remark or None,
                "merged_bytes": row.merged_bytes,
                **(asdict(row.outcome) if row.outcome else {}),
            }
            for row in rows
        ]
    }


def merged_before(row: Row) -> str:
    """What it had merged already, as of ksmd's last scan."""
    pages = row.outcome.merged_pages_before if row.outcome else None
    return "-" if pages is None else number(pages, "page")


def show(
    rows: Iterable[Row],
    console: Console,
    heading: str = "MERGED BEFORE",
    figure: Callable[[Row], str] = merged_before,
) -> None:
    """One line a process; below, what else there is to say of some."""
    rows = list(rows)
    table = tables.table(
        ("NAME", "HOW"),
        ("PID", "UID", "HELD", heading),
        ("PID", "NAME", "UID", "HOW", "HELD", heading),
    )
    for row in rows:
        who, done = row.process, row.outcome
        how, hold = ("-", "-") if done is None else (done.how, held(done.longest_hold_seconds))
        tables.add(table, str(who.pid), who.name, str(who.uid), how, hold, figure(row))
    console.print()
    console.print(table)
    for row in rows:
        if told := note(row):
            tables.show(console, f"{row.process.pid} {row.process.name}: {told}")


def held(seconds: float) -> str:
    """How long a thread was stopped: ``60 us``, ``1.2 ms``, ``0.42 s``."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else duration(seconds)


def note(row: Row) -> str:
    """What else there is to say of a process."""
    if row.error:
        return row.error
    if row.outcome is None:
        return row.remark
    if row.outcome.already:
        return "was so already"
    if row.outcome.refused_ranges:
        of = number(row.outcome.ranges, "range")
        return f"{row.outcome.refused_ranges} of {of} refused by the kernel"
    if row.outcome.still_mergeable:
        return "has marked more of its memory as mergeable meanwhile: detach it once more"
    return ""
