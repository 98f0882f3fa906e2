"""Finds which processes have memory that kernel KSM may merge, cheaply enough to do it always.

It asks about a process when the process is new, and again each time the age of the process has
doubled, because programs mark their memory when they start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux.aside import readers
from pagemerge.linux.ksm import is_mergeable
from pagemerge.linux.process import PROC, pids

SELDOM = 30.0
"""The most seconds between two questions about a process."""


@dataclass(slots=True)
class _Known:
    since: float
    asked: float
    mergeable: bool


def asked(pid: int) -> bool:
    """Ask, aside, whether ksmd may merge memory of a process; false if it keeps us waiting."""
    try:
        return readers.call(pid, is_mergeable, pid)
    except PagemergeError:
        return False


class Mergeable:
    """The processes of this host that have mergeable memory, as of the last ``refresh``.

    ``ask`` returns whether the process with this pid has mergeable memory; false if it has ended.
    """

    def __init__(self, ask: Callable[[int], bool], proc: Path = PROC) -> None:
        self._ask, self._proc = ask, proc
        self._known: dict[int, _Known] = {}

    @property
    def pids(self) -> list[int]:
        """The pids of these processes, ascending."""
        return sorted(pid for pid, known in self._known.items() if known.mergeable)

    def refresh(self, now: float) -> None:
        """Note which processes came, ended or changed; ``now``: seconds on any clock that never
        goes back."""
        running = set(pids(self._proc))
        for pid in self._known.keys() - running:
            del self._known[pid]
        for pid in running:
            known = self._known.setdefault(pid, _Known(now, now, mergeable=False))
            wait = min(known.asked - known.since, SELDOM)
            # A pid that the kernel uses again counts as one process; the next question finds out.
            if now - known.asked >= wait:
                known.asked, known.mergeable = now, self._ask(pid)

    def forget(self, pids: Iterable[int]) -> None:
        """Ask about these processes at the next refresh, because they were marked just now."""
        for pid in pids:
            self._known.pop(pid, None)
