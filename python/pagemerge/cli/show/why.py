"""Shows why processes merge little or nothing: the answer in words, then the reasons of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.figures import number, precise

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.cli.show.printed_scan import WhyFigures
    from pagemerge.estimate.why import Explained, Why

SMALL = 0.01
"""Part of a process's memory: reasons with less are only counted, unless it is the first."""


def show(console: Console, result: Why) -> None:
    """Print the answer in words, the sums by reason, and then each process with its reasons."""
    tables.show(console, sentence(result))
    if len(result.processes) > 1:
        items = [(precise(it), kind) for kind, it in result.bytes_by_kind().items()]
        tables.items(console, items)
    said: set[tuple[str, str]] = set()
    for one in result.processes:
        console.print()
        _process(console, one, said)
    if result.left_out:
        console.print()
        others = number(result.left_out, "smaller process merges", "smaller processes merge")
        tables.show(console, f"... and {others} little or nothing, too.")


def sentence(result: Why) -> str:
    """Write the answer in one sentence."""
    if not result.processes:
        return "No process that was looked at merges little or nothing."
    total = sum(one.memory_bytes for one in result.processes)
    merged = sum(one.merged_bytes for one in result.processes)
    many = len(result.processes) > 1
    who = number(len(result.processes), "process", "processes") if many else "one process"
    told = f"Of {precise(total)} of {who}, {precise(merged) if merged else 'nothing'} is merged"
    kinds = list(result.bytes_by_kind())
    if not kinds:
        return f"{told}."
    more = "A byte may have several reasons. " if many else ""
    return f"{told}; the main reason is: {kinds[0]}. {more}".rstrip()


def _process(console: Console, one: Explained, said: set[tuple[str, str]]) -> None:
    """Print one process: a line of its own, and each reason with its cure below.

    ``said``: text and cure of the reasons that were printed before, which are not repeated.
    """
    guest = f", guest {one.guest}" if one.guest else ""
    merged = f"{precise(one.merged_bytes)} merged" if one.merged_bytes else "nothing merged"
    told = f"{precise(one.memory_bytes)}, {merged}"
    tables.show(console, f"process {one.pid} ({one.name}{guest}): {one.error or told}", "bold")
    least = SMALL * one.memory_bytes
    shown = [it for at, it in enumerate(one.reasons) if at == 0 or it.bytes >= least]
    for reason in shown:
        if (reason.text, reason.cure) in said:
            tables.items(console, [(precise(reason.bytes), f"{reason.kind}: as above")])
            continue
        said.add((reason.text, reason.cure))
        tables.items(console, [(precise(reason.bytes), f"{reason.kind}: {reason.text}")])
        tables.items(console, [("", f"Cure: {reason.cure}")])
    if rest := len(one.reasons) - len(shown):
        told = "1 reason" if rest == 1 else f"{rest} reasons, each"
        tables.items(console, [("", f"and {told} for less than 1% of its memory")])


def figures(result: Why) -> WhyFigures:
    """Return the reasons for JSON; keys name their units."""
    return {
        "bytes_by_kind": result.bytes_by_kind(),
        "processes": [
            {
                "pid": one.pid,
                "name": one.name,
                "guest": one.guest or None,
                "memory_bytes": one.memory_bytes,
                "merged_bytes": one.merged_bytes,
                "reasons": [
                    {"kind": it.kind, "bytes": it.bytes, "text": it.text, "cure": it.cure}
                    for it in one.reasons
                ],
                "error": one.error or None,
            }
            for one in result.processes
        ],
        "processes_left_out": result.left_out,
    }
