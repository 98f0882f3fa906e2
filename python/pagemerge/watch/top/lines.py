"""The lines of the table: one for each process or group, filtered and sorted. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pagemerge.linux.text import plain
from pagemerge.watch.model import Row

Rate = Callable[[Row], float | None]
"""Gives the merged pages of a row that are separated per second; None if that is not known."""

KINDS = ("process", "guest", "unit", "user")
"""What a line can stand for."""

NAMELESS = {"guest": "(no guest)", "unit": "(no unit)", "user": "(no user)"}
"""The line of all processes that belong to no group of this kind."""

MOST = 64
"""Characters of a name that are shown: longer ones would hide each other's ends anyway."""


@dataclass(frozen=True, slots=True)
class Line:
    """The figures of one process, or of a group of processes together."""

    key: tuple[str, str]
    """The same at every moment: the kind of group, and the pid or the name of the group."""
    name: str
    """Printable: what people call it."""
    aside: str
    """Printable: what else tells it from others; may be empty."""
    rows: tuple[Row, ...]
    """Its processes, at least one."""
    users: tuple[str, ...]
    """Printable; ascending."""
    engines: tuple[str, ...]
    """user | kernel; ascending."""
    memory_bytes: int
    merged_bytes: int
    saved_bytes: int
    unsharing: float | None
    """Merged pages that are separated per second; None if no process of it has a known rate."""
    mappings_share: float | None
    """Mappings of the process that is nearest to its limit, as a part of that limit; None if they
    are not counted yet."""
    volatile_share: float | None
    """Memory that changed between two looks of the hub, as a part of ``memory_bytes``; None under
    the kernel engine."""
    cost: float | None
    """Processor time of the agents, as a share of a core; None if it is not known."""

    @property
    def pid(self) -> int | None:
        """The pid, if the line stands for one process."""
        return self.rows[0].pid if len(self.rows) == 1 else None

    @property
    def merges_nothing(self) -> bool:
        """Is nothing of it merged?"""
        return self.merged_bytes == 0


def arranged(
    rows: Iterable[Row], rate: Rate, kind: str, sort: str, wanted: str = "", reverse: bool = False
) -> list[Line]:
    """Make the lines of a table: group by ``kind``, keep those that match ``wanted``, and sort.

    Figures are sorted from the largest on and names from A on; ``reverse`` turns that around. Equal
    lines keep the order of their pids or names, so that they do not jump about.
    """
    made = processes(rows, rate) if kind == "process" else groups(rows, rate, kind)
    if wanted:
        made = [line for line in made if matches(line, wanted)]
    return ordered(made, sort, reverse)


def processes(rows: Iterable[Row], rate: Rate) -> list[Line]:
    """Make a line of each process."""
    return [_process(row, rate(row)) for row in rows]


def groups(rows: Iterable[Row], rate: Rate, kind: str) -> list[Line]:
    """Make a line of each guest, unit or user; processes of none have one line together."""
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(getattr(row, kind), []).append(row)
    return [_group(kind, name, members[name], rate) for name in sorted(members)]


def matches(line: Line, wanted: str) -> bool:
    """Does the text appear in a name, unit, user, engine or pid of this line? Case is ignored."""
    wanted = plain(wanted).casefold()
    told = (
        text
        for row in line.rows
        for text in (row.name, row.guest, row.unit, row.user, row.engine, row.domain, str(row.pid))
    )
    return any(wanted in plain(text).casefold() for text in (line.name, *told))


FIGURES: dict[str, Callable[[Line], float]] = {
    "saved": lambda line: line.saved_bytes,
    "merged": lambda line: line.merged_bytes,
    "unsharing": lambda line: -1.0 if line.unsharing is None else line.unsharing,
    "memory": lambda line: line.memory_bytes,
    "mappings": lambda line: -1.0 if line.mappings_share is None else line.mappings_share,
    "volatile": lambda line: -1.0 if line.volatile_share is None else line.volatile_share,
    "cost": lambda line: -1.0 if line.cost is None else line.cost,
}
"""Name of an order -> the figure that is compared."""

SORTS = (*FIGURES, "name")
"""The names of all orders."""


def ordered(lines: Sequence[Line], sort: str, reverse: bool = False) -> list[Line]:
    """Sort lines by one of ``SORTS``."""
    if sort == "name":
        return sorted(lines, key=lambda line: line.name.casefold(), reverse=reverse)
    # sorted() leaves equal lines as they are, in both directions.
    return sorted(lines, key=FIGURES[sort], reverse=not reverse)


def _process(row: Row, rate: float | None) -> Line:
    name = plain(row.guest or row.name, MOST)
    aside = row.unit if not row.guest else row.name
    return Line(
        key=("process", str(row.pid)),
        name=name,
        aside=plain(aside, MOST),
        rows=(row,),
        users=(plain(row.user, MOST),),
        engines=(row.engine,),
        memory_bytes=row.memory_bytes,
        merged_bytes=row.merged_bytes,
        saved_bytes=row.saved_bytes,
        unsharing=rate,
        mappings_share=_share(row),
        volatile_share=_volatile((row,)),
        cost=row.agent_cores,
    )


def _group(kind: str, name: str, rows: Sequence[Row], rate: Rate) -> Line:
    rates = [found for row in rows if (found := rate(row)) is not None]
    shares = [share for row in rows if (share := _share(row)) is not None]
    costs = [row.agent_cores for row in rows if row.agent_cores is not None]
    members = (row.name if kind == "guest" else row.guest or row.name for row in rows)
    names = sorted({plain(member, MOST) for member in members})
    return Line(
        key=(kind, name),
        name=plain(name, MOST) if name else NAMELESS[kind],
        aside=", ".join(names[:3]) + (", …" if len(names) > 3 else ""),
        rows=tuple(rows),
        users=tuple(sorted({plain(row.user, MOST) for row in rows})),
        engines=tuple(sorted({row.engine for row in rows})),
        memory_bytes=sum(row.memory_bytes for row in rows),
        merged_bytes=sum(row.merged_bytes for row in rows),
        saved_bytes=sum(row.saved_bytes for row in rows),
        unsharing=sum(rates) if rates else None,
        mappings_share=max(shares, default=None),
        volatile_share=_volatile(rows),
        cost=sum(costs) if costs else None,
    )


def _volatile(rows: Sequence[Row]) -> float | None:
    """Volatile memory as a part of all memory of the rows that tell it."""
    known = [(row.volatile_bytes, row.memory_bytes) for row in rows if row.memory_bytes > 0]
    told = [(part, whole) for part, whole in known if part is not None]
    return min(sum(it[0] for it in told) / sum(it[1] for it in told), 1.0) if told else None


def _share(row: Row) -> float | None:
    """Mappings as a part of their limit. A process has mappings, so 0 means not counted yet."""
    if row.mappings <= 0 or row.mappings_limit <= 0:
        return None
    return row.mappings / row.mappings_limit
