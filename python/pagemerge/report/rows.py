"""The table of processes, and what could not be looked at."""

from __future__ import annotations

from dataclasses import dataclass

from pagemerge.figures import number, precise
from pagemerge.report.given import Given, Room, page_size
from pagemerge.report.shapes import Section
from pagemerge.report.words import cut, listed

COLUMNS = (
    ("Saves", "saveable_bytes"),
    ("Looked at", "pages"),
    ("Zero", "zero_pages"),
    ("Duplicate", "duplicate_pages"),
    ("Shared", "shared_pages"),
    ("Merged", "merged_pages"),
    ("Cannot merge", "ineligible_bytes"),
)
"""Heading, and figure of a process."""
SAVES = [key for _, key in COLUMNS].index("saveable_bytes")
NAMED = 6
"""Processes that are named for an error."""


@dataclass(frozen=True, slots=True)
class Row:
    """A process or a memory image."""

    pid: str
    name: str
    uid: str
    domain: str
    cells: tuple[str, ...]
    """As ``Table.columns``."""
    values: str
    """Pid, uid and cells as numbers, joined by commas: the order of the rows."""


@dataclass(frozen=True, slots=True)
class Table:
    """What the template draws."""

    columns: tuple[str, ...]
    sorted_by: int
    """The column of which the largest value comes first."""
    rows: tuple[Row, ...]
    more: tuple[str, ...]
    errors: tuple[tuple[str, str], ...]
    """Processes, and why they could not be looked at."""


def section(figures: Given, room: Room) -> Section | None:
    """List the processes that save most, and what could not be looked at."""
    found = figures.parts("processes")
    not_found = [cut(it, room.text) for it in figures.texts("not_found")][: room.items]
    if not found and not not_found:
        return None
    size_of = page_size(figures)
    read = [it for it in found if not it.raw("error")]
    read.sort(key=lambda it: (-it.number("saveable_bytes"), -it.number("pages")))
    chosen = [
        at
        for at, (_, key) in enumerate(COLUMNS)
        if at == SAVES or any(it.number(key) for it in read)
    ]
    shown = read[: room.rows]
    more = _more(figures, read[room.rows :], [it for it in found if it.raw("error")])
    content = Table(
        tuple(COLUMNS[at][0] for at in chosen),
        chosen.index(SAVES),
        tuple(_row(it, chosen, size_of, room) for it in shown),
        (*more, *not_found),
        _errors(found, room),
    )
    return Section("processes", "Processes", _words(shown), content)


def _words(shown: list[Given]) -> tuple[str, ...]:
    if not shown or not shown[0].number("saveable_bytes"):
        return ()
    first = shown[0]
    pid = first.known("pid")
    who = cut(first.raw("name"), 32) + ("" if pid is None else f" (process {pid:.0f})")
    return (f"Most would be saved in {who}: {precise(first.number('saveable_bytes'))}.",)


def _row(it: Given, chosen: list[int], size_of: int, room: Room) -> Row:
    keys = [COLUMNS[at][1] for at in chosen]
    values = [it.number(key) * (1 if key.endswith("_bytes") else size_of) for key in keys]
    pid, uid = it.known("pid"), it.known("uid")
    numbers = [-1 if pid is None else pid, -1 if uid is None else uid, *values]
    return Row(
        "image" if pid is None else f"{pid:.0f}",
        cut(it.raw("name"), room.name),
        "" if uid is None else f"{uid:.0f}",
        cut(it.raw("domain"), room.name),
        tuple(precise(value) if value else "0" for value in values),
        ",".join(f"{value:.0f}" for value in numbers),
    )


def _more(figures: Given, left: list[Given], failed: list[Given]) -> list[str]:
    """Say what the table does not show."""
    found = []
    if left:
        saves = precise(sum(it.number("saveable_bytes") for it in left))
        told = number(len(left), "more process", "more processes")
        found.append(f"Left out: {told}, which would save {saves} together.")
    if before := figures.number("processes_left_out"):
        told = number(before, "more process was", "more processes were")
        found.append(f"{told} looked at, and left out by --top.")
    if failed:
        told = number(len(failed), "process", "processes")
        found.append(f"{told} could not be looked at: see below the table.")
    if partly := [it for it in figures.parts("processes") if it.number("unreadable_pages")]:
        pages = number(sum(it.number("unreadable_pages") for it in partly), "page")
        told = number(len(partly), "process", "processes")
        found.append(f"{pages} of {told} could not be read: unmapped or changed meanwhile.")
    return found


def _errors(found: list[Given], room: Room) -> tuple[tuple[str, str], ...]:
    """Put the processes together that could not be looked at for one reason."""
    said: dict[str, list[str]] = {}
    for it in found:
        if error := it.raw("error"):
            pid = it.known("pid")
            own = "" if pid is None else f"{pid:.0f}"
            # Most messages name the process; without its pid they are one message.
            told = cut(error.replace(own, "PID") if own else error, room.text)
            name = cut(it.raw("name"), room.name)
            said.setdefault(told, []).append(f"{name} ({own})" if own else name)
    reasons = sorted(said.items(), key=lambda item: -len(item[1]))
    listing = [
        (listed(names[:NAMED], len(names) - NAMED), told) for told, names in reasons[: room.items]
    ]
    if (left := len(reasons) - room.items) > 0:
        rest = sum(len(names) for _, names in reasons[room.items :])
        listing.append((number(rest, "more process", "more processes"), f"{left:,} other reasons"))
    return tuple(listing)
