"""What a group of processes takes: memory by its cgroup, or by PSS where no cgroup can be made."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tests.support.cgroup import Cgroup, limited

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux.accounts import resident

SETTLED = 8.0
"""Seconds without a change after which memory counts as settled."""
CHANGE = 0.005


class Group:
    """Made by ``grouped``. The processes come later: ``pids`` tells them."""

    def __init__(self, cgroup: Cgroup | None) -> None:
        self.cgroup = cgroup
        self.pids: Callable[[], list[int]] = list

    def prefix(self) -> list[str]:
        """What goes before the command line of a program of the group."""
        return self.cgroup.prefix() if self.cgroup else []

    def resident_bytes(self) -> int:
        """Anonymous and shared memory, with page tables; without a cgroup the sum of PSS."""
        if self.cgroup:
            return self.cgroup.resident_bytes()
        total = 0
        for pid in self.pids():
            with contextlib.suppress(PagemergeError):  # it has ended
                total += resident(pid).pss_bytes
        return total

    def settle(self, least: float, patience: float) -> float:
        """Wait until the memory of the group changes no more; returns the seconds of change.

        It waits ``least`` seconds, because an engine may take some time until it begins, and
        ``patience`` seconds at most.
        """
        began = time.monotonic()
        low, since = self.resident_bytes(), began
        while (now := time.monotonic()) < min(
            max(since + SETTLED, began + least), began + patience
        ):
            time.sleep(0.5)
            found = self.resident_bytes()
            if abs(found - low) > CHANGE * low:
                low, since = found, now
        return since - began


@contextlib.contextmanager
def grouped(name: str) -> Iterator[Group]:
    """A group of its own. Its processes must have ended at the end."""
    with contextlib.ExitStack() as stack:
        cgroup = None
        try:
            cgroup = stack.enter_context(limited(None, name))
        except Unsupported as lack:
            print(f"memory is the sum of PSS: {lack}", file=sys.stderr)
        yield Group(cgroup)
