"""``pagemerge doctor``: what this host can do."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.cli.show.findings import (
    MISSING,
    OK,
    Engine,
    Fact,
    KernelKsm,
    answer,
    facts,
    kernel_engine,
    user_engine,
)
from pagemerge.cli.show.words import as_json, folded
from pagemerge.linux.text import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pagemerge.linux.host import Host
    from pagemerge.linux.ksm import Ksm

COLOURS = {OK: "green", MISSING: "bold red"}
"""Colours that are readable on a light and on a dark terminal; a note has none."""

COLUMNS = (7, 17)
"""Widths of the state and of the subject of a fact on a terminal, in columns."""


class Doctor:
    """Tell which engine works on this host for this user, and what would have to change.

    Looks at kernel KSM and at the programs that drive it, at userfaultfd, at the rights to read
    other processes, and at the limits of a container. It changes nothing. Run it as the user who
    will run pagemerge.

    Exit status: 0 if at least one engine can work, 77 if none can.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add --json."""
        parser.add_argument("--json", action="store_true", help="print all of it as JSON")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Examine the host and print what it can do; returns 77 if no engine can work."""
        from pagemerge.linux.host import examine

        host, ksm = examine(), ask_ksm()
        engines = [ask_user_engine(host), kernel_engine(ksm)]
        found = facts(host, ksm)
        if args.json:
            print(as_json(figures(host, ksm, engines, found)))
        else:
            show(engines, found, tables.console())
        return 0 if any(engine.works for engine in engines) else 77


def ask_ksm() -> KernelKsm:
    """Read the state of kernel KSM."""
    from pagemerge.linux.ksm import Ksm
    from pagemerge.linux.prctl import why_not

    ksm = Ksm()
    return KernelKsm(
        ksm.knobs(), ksm.counters(), ksm.why_not(), why_not(), ksm.driver(), merged_now(ksm)
    )


def merged_now(ksm: Ksm) -> int | None:
    """Count the bytes that kernel KSM has merged in the processes visible here.

    None if this user may not read /proc/kpageflags.
    """
    import os

    from pagemerge.ksmd.merged import sharing_pages
    from pagemerge.linux.ksm import mergeable
    from pagemerge.model import PAGE_SIZE

    if not os.access(ksm.proc / "kpageflags", os.R_OK, effective_ids=True):
        return None
    pages = sharing_pages(mergeable(ksm.proc))
    # Unlike the other counters, that of zero pages is always up to date.
    return None if pages is None else (pages + (ksm.counters().ksm_zero_pages or 0)) * PAGE_SIZE


def ask_user_engine(host: Host) -> Engine:
    """Find out what the agent would get in a program of this user."""
    from pagemerge import _core
    from pagemerge.hub import reach

    barrier, reason = _core.probe_barrier(reach.barrier())
    return user_engine(host, _core.BARRIERS[barrier], reason)


def figures(
    host: Host, ksm: KernelKsm, engines: list[Engine], found: list[Fact]
) -> dict[str, object]:
    """Return the object that ``--json`` prints."""
    return {
        "answer": answer(engines),
        "engines": {engine.name: asdict(engine) for engine in engines},
        "host": asdict(host),
        "kernel_ksm": asdict(ksm),
        "facts": [asdict(fact) for fact in found],
    }


def show(engines: list[Engine], found: list[Fact], console: Console) -> None:
    """Print the answer, the engines and the facts, one line each; a cure follows its fact."""
    tables.show(console, answer(engines), "bold")
    able = [
        Fact(
            OK if engine.works else MISSING,
            f"{engine.name} engine",
            engine.how or "cannot work",
            engine.lacks,
        )
        for engine in engines
    ]
    for block in (able, found):
        console.print()
        if console.is_terminal:
            console.print(_table(block, console.width))
        else:
            # In a pipe lines stay whole, so that programs can parse them.
            for fact in block:
                tables.show(console, f"{fact.state:<9}{fact.about:<19}{fact.says}")
                if fact.cure:
                    tables.show(console, f"{'':<28}→ {fact.cure}")


def _table(block: list[Fact], width: int) -> Table:
    """Make a table of facts for a terminal: long lines are folded inside their column."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for wide in COLUMNS:
        table.add_column(width=wide, no_wrap=True)
    table.add_column()
    room = max(width - sum(COLUMNS) - 2 * len(COLUMNS), 20)

    def told(text: str) -> Text:
        return Text("\n".join(folded(plain(text), room)))

    for fact in block:
        state = Text(fact.state, style=COLOURS.get(fact.state, ""))
        table.add_row(state, fact.about, told(fact.says))
        if fact.cure:
            table.add_row("", "", told(f"→ {fact.cure}"))
    return table
