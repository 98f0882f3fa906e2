"""Prints the figures of ``pagemerge top`` as text: the answer first, then the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.cli.show.words import folded
from pagemerge.watch.top import words
from pagemerge.watch.top.lines import arranged

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.watch.top.lines import Line
    from pagemerge.watch.top.recent import Recent

DECISIONS = 5
"""Decisions of the governor that are printed."""


def show(recent: Recent, console: Console, *, kind: str, sort: str) -> None:
    """Print the last moment. It has to be there."""
    moment = recent.moment
    assert moment is not None
    tables.show(console, words.answer(moment), "bold")
    tables.show(console, words.memory(moment))
    states = {
        "user engine": words.user_engine(recent),
        "kernel engine": words.kernel_engine(recent),
    }
    for name, state in states.items():
        tables.show(console, f"{name}: {state.word}: {state.text}")
    lines = arranged(moment.rows, recent.unsharing, kind, sort)
    console.print()
    if lines:
        console.print(_table(lines, kind, console.width))
    else:
        tables.show(console, "No process has mergeable memory.")
    if told := words.silent(lines, recent):
        console.print()
        tables.show(console, "What merges nothing, and why:", "bold")
        for names, reason in told:
            _below(console, f"{names}: ", reason)
    console.print()
    tables.show(console, "The governor's last decisions:", "bold")
    for one in list(recent.decisions)[-DECISIONS:]:
        _below(console, f"{words.clock(one.time)} ", words.decided(one))
    if not recent.decisions:
        _below(console, "", words.no_decisions(moment))


def _table(lines: list[Line], kind: str, width: int) -> object:
    who = "pid" if kind == "process" else "count"
    name = "name" if kind == "process" else kind
    figures = ("saved", "merged", "memory", "unshare/s", "mappings", who)
    texts = ("engine", "user", name) if kind != "user" else ("engine", name)
    rows = []
    for line in lines:
        last = line.rows[0].pid if kind == "process" else len(line.rows)
        cells = [
            words.short(line.saved_bytes),
            words.short(line.merged_bytes),
            words.short(line.memory_bytes),
            words.rate(line.unsharing),
            words.percent(line.mappings_share),
            str(last),
            line.engines[0] if len(line.engines) == 1 else "both",
        ]
        if kind != "user":
            cells.append(line.users[0] if len(line.users) == 1 else f"{len(line.users)} users")
        rows.append([*cells, line.name])
    spare = ("engine", "user", "mappings")
    return tables.fitted(rows, width, texts, figures, (*figures, *texts), spare)


def _below(console: Console, lead: str, text: str) -> None:
    """Print a paragraph below a heading: folded on a terminal, one line in a pipe."""
    if not console.is_terminal:
        tables.show(console, f"  {lead}{text}")
        return
    for line in folded(f"{lead}{text}", console.width, "  ", "    "):
        tables.show(console, line)
