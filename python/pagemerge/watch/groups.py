"""Gathers rows by the name that people know them by, and counts what happens to them.

A host can have any number of processes, and each label of a metric is a series that Prometheus
keeps. So only the groups that save most have a name, and the rest is one group, ``other``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pagemerge.linux.text import plain
from pagemerge.watch.model import Moment, Row

MOST_GROUPS = 50
"""Groups with a name of their own."""
MOST_NAME = 100
"""Characters of a group's name."""


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """What a group is called."""

    engine: str
    """user | kernel."""
    kind: str
    """guest | unit | process | other."""
    name: str


@dataclass(slots=True)
class Group:
    """The rows of one label, added up."""

    saved_bytes: int = 0
    merged_bytes: int = 0
    memory_bytes: int = 0
    processes: int = 0
    mappings_ratio: float = 0.0
    """The largest share of vm.max_map_count that one of its processes uses."""
    pids: list[int] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Add a process."""
        self.saved_bytes += row.saved_bytes
        self.merged_bytes += row.merged_bytes
        self.memory_bytes += row.memory_bytes
        self.processes += 1
        if row.mappings_limit > 0:
            self.mappings_ratio = max(self.mappings_ratio, row.mappings / row.mappings_limit)
        self.pids.append(row.pid)


def label_of(row: Row) -> Label:
    """Return the label of a row: its guest, else its unit, else its name."""
    for kind, name in (("guest", row.guest), ("unit", row.unit)):
        if name:
            return Label(row.engine, kind, plain(name, MOST_NAME))
    return Label(row.engine, "process", plain(row.name, MOST_NAME))


def gathered(rows: Iterable[Row], most: int = MOST_GROUPS) -> dict[Label, Group]:
    """Add up rows by label; at most ``most`` labels, and one ``other`` for each engine."""
    by_label: dict[Label, list[Row]] = {}
    for row in rows:
        by_label.setdefault(label_of(row), []).append(row)

    def importance(label: Label) -> tuple[int, int, Label]:
        these = by_label[label]
        return -sum(it.saved_bytes for it in these), -sum(it.memory_bytes for it in these), label

    named = set(sorted(by_label, key=importance)[:most])
    found: dict[Label, Group] = {}
    for label, these in by_label.items():
        shown = label if label in named else Label(label.engine, "other", "other")
        group = found.setdefault(shown, Group())
        for row in these:
            group.add(row)
    return found


@dataclass(slots=True)
class Count:
    """Pages since we began to count."""

    merges: int = 0
    separations: int = 0


class Counts:
    """Counts the merges and separations of the user engine, so that no count ever falls.

    The hub counts for each client since it came, and forgets a client that leaves. A sum over
    clients would fall then, and Prometheus would take that for a restart.
    """

    def __init__(self) -> None:
        self._hub = 0
        """Pid of the hub that ``_seen`` is of."""
        self._seen: dict[int, tuple[int, int]] = {}
        """Pid -> merges and separations at the last moment."""
        self.all = Count()
        self.of: dict[Label, Count] = {}
        """Counts of the groups that have a name at this moment, or are ``other``."""

    def note(self, moment: Moment, groups: dict[Label, Group]) -> None:
        """Count what has happened since the moment before."""
        if moment.user is None:  # a hub that answers again has the same clients
            return
        before = self._seen if moment.user.hub_pid == self._hub else {}
        self._hub = moment.user.hub_pid
        self._seen = {
            row.pid: (row.merges, row.separations)
            for row in moment.rows
            if row.merges is not None and row.separations is not None
        }
        kept = {}
        for label, group in groups.items():
            if label.engine != "user":
                continue
            count = kept[label] = self.of.get(label, Count())
            for pid in group.pids:
                merges, separations = self._since(pid, before)
                count.merges += merges
                count.separations += separations
                self.all.merges += merges
                self.all.separations += separations
        self.of = kept

    def _since(self, pid: int, before: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """Return the merges and separations of a process since the moment before."""
        now, old = self._seen.get(pid, (0, 0)), before.get(pid, (0, 0))
        if now[0] < old[0] or now[1] < old[1]:  # another process with this pid
            return now
        return now[0] - old[0], now[1] - old[1]
