"""Describes what ``--select`` would mark or has marked, in words and in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.figures import number, size
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.table import Table

    from pagemerge.cli.show.printed import Selected
    from pagemerge.ksmd.model import Selection


def sentence(selections: Sequence[Selection], *, done: bool) -> str:
    """Write what marking saves, and how much ksmd then looks at; ``done``: it is marked now."""
    chosen = [one for one in selections if len(one.start)]
    looked = sum(one.looked for one in selections)
    if not chosen:
        return f"Nothing is worth marking in the {size(looked * PAGE_SIZE)} looked at."
    ranges = sum(len(one.start) for one in chosen)
    marked = sum(one.marked for one in chosen)
    gain = sum(one.gain for one in chosen)
    what = f"{number(ranges, 'range')} of {number(len(chosen), 'process', 'processes')}"
    saves, looks = size(gain * PAGE_SIZE), size(marked * PAGE_SIZE)
    share = f"{marked / looked:.0%} of the {size(looked * PAGE_SIZE)} looked at"
    if done:
        return f"Marked {what}, to save {saves}; ksmd looks at {looks}, {share}."
    return f"Marking {what} would save {saves}; ksmd would look at {looks}, {share}."


def processes(selections: Sequence[Selection], width: int) -> Table:
    """Make a table of processes for a screen of ``width`` columns; the largest gain comes first."""
    figures = ("looked at", "marked", "duplicates", "saves", "ranges", "new mappings")
    rows = [
        [
            str(one.pid),
            one.name,
            *(size(pages * PAGE_SIZE) for pages in (one.looked, one.marked, one.duplicates)),
            size(one.gain * PAGE_SIZE),
            f"{len(one.start):,}",
            f"{one.mappings:,}",
        ]
        for one in sorted(selections, key=lambda one: -one.gain)
        if not one.error
    ]
    order, spare = ("pid", "name", *figures), ("new mappings", "duplicates", "ranges")
    return tables.fitted(rows, width, ("pid", "name"), figures, order, spare)


def notes(selections: Sequence[Selection]) -> list[str]:
    """List processes that could not be looked at or not be marked in full, one line for each."""
    found = []
    for one in selections:
        who = f"{one.pid} {one.name}"
        if one.error:
            found.append(f"{who}: {one.error}")
        elif one.left_out:
            left = size(one.left_out * PAGE_SIZE)
            found.append(
                f"{who}: {left} of duplicates are left out, as they would take more mappings "
                "than the process has left (raise vm.max_map_count, sysctl(8))"
            )
    return found


def figures(selections: Sequence[Selection]) -> list[Selected]:
    """Return the figures for ``--json``: pages and bytes, and the start and end of every range."""
    return [
        {
            "pid": one.pid,
            "name": one.name,
            "looked_at_pages": one.looked,
            "marked_pages": one.marked,
            "duplicate_pages": one.duplicates,
            "left_out_pages": one.left_out,
            "saveable_bytes": int(one.gain * PAGE_SIZE),
            "new_mappings": one.mappings,
            "ranges": list(map(list, one.ranges)),
            "error": one.error or None,
        }
        for one in selections
    ]
