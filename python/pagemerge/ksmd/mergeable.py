"""Which processes have memory that kernel KSM may merge, cheaply enough to ask all the time.

A process is asked about when it is new, and then again each time its age has doubled: programs mark
their memory when they start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pagemerge.linux.process import PROC, pids

SELDOM = 30.0
"""Seconds between two questions about an old process."""


@dataclass(slots=True)
class _Known:
    since: float
    asked: float
    mergeable: bool


class Mergeable:
    """The processes of this host that have mergeable memory, as of the last ``refresh``.

    ``ask`` tells whether the process with this pid has, false for one that has gone.
    """

    def __init__(self, ask: Callable[[int], bool], proc: Path = PROC) -> None:
        self._ask, self._proc = ask, proc
        self._known: dict[int, _Known] = {}

    @property
    def pids(self) -> list[int]:
        """Ascending."""
        return sorted(pid for pid, known in self._known.items() if known.mergeable)

    def refresh(self, now: float) -> None:
        """See who came, went, and changed; ``now`` in seconds on any clock that goes forward."""
        running = set(pids(self._proc))
        for pid in self._known.keys() - running:
            del self._known[pid]
        for pid in running:
            known = self._known.setdefault(pid, _Known(now, now, mergeable=False))
            wait = min(known.asked - known.since, SELDOM)
            # A number that is used again shows as one process: it is asked about soon enough.
            if now - known.asked >= wait:
                known.asked, known.mergeable = now, self._ask(pid)

    def forget(self, pids: Iterable[int]) -> None:
        """Ask about these at the next refresh: they were marked just now."""
        for pid in pids:
            self._known.pop(pid, None)
