"""Kernel KSM, borrowed for a measurement and given back as it was.

Its state is global to the host: ``borrowed`` takes a lock, so that two measurements or tests do
not use it at once.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux import ksm as kernel
from pagemerge.linux.knobs import RUN, Knobs, Value
from pagemerge.linux.knobs import STOP as STOP  # users of this module need it, too
from pagemerge.linux.knobs import UNMERGE as FORGET
from pagemerge.linux.ksm import ROOT, KsmCounters

from .ending import terminable

FLAT_OUT = {"pages_to_scan": 100_000, "sleep_millisecs": 0}
DEFAULTS = {"pages_to_scan": 100, "sleep_millisecs": 20}

ADVISOR_DEFAULTS = {
    "advisor_max_cpu": 70,
    "advisor_min_pages_to_scan": 500,
    "advisor_max_pages_to_scan": 30_000,
    "advisor_target_scan_time": 200,
}

FORGETTING = 5.0
"""Seconds that two full scans may take when the benchmark's own processes have ended."""


class Ksm:
    """What a measurement does with it; made by ``borrowed``."""

    def __init__(self, root: Path = ROOT) -> None:
        self.kernel = kernel.Ksm(root)
        self.before = self.counters()
        """The counters before the measurement: others' pages are none of ours."""

    def write(self, name: str, value: Value) -> None:
        """Set a knob."""
        self.kernel.write(**{name: value})

    def start(self, **knobs: Value) -> None:
        """Set knobs, and let ksmd go, without the advisor where there is one."""
        if self.kernel.knobs().advisor_mode is not None:
            knobs.setdefault("advisor_mode", "none")
        self.kernel.write(**knobs, run=RUN)

    def counters(self) -> KsmCounters:
        """All counters."""
        return self.kernel.counters()

    def readings(self) -> dict[str, int | str]:
        """Knobs and counters that there are, as the kernel calls them and in its units."""
        found = {**asdict(self.kernel.knobs()), **asdict(self.counters())}
        found["general_profit"] = found.pop("general_profit_bytes")
        return {name: value for name, value in found.items() if value is not None}

    @property
    def sharing(self) -> int:
        """Pages saved since the measurement began."""
        return (self.counters().pages_sharing or 0) - (self.before.pages_sharing or 0)

    def forget(self) -> None:
        """Forget the records of processes that have ended, and stop. Others' pages stay merged.

        A stopped ksmd keeps them, and they cost the next scan time.
        """
        if self.before.pages_shared:
            scans, deadline = self.full_scans, time.monotonic() + FORGETTING
            self.start(**FLAT_OUT)
            # It does not scan at all once the last mergeable process has ended.
            while self.full_scans < scans + 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        else:
            self.write("run", FORGET)
        self.write("run", STOP)

    @property
    def full_scans(self) -> int:
        """Completed scans of all mergeable memory, since the host started."""
        return self.counters().full_scans or 0

    def cpu_seconds(self) -> float:
        """Processor time of ksmd."""
        if (spent := self.kernel.ksmd_cpu_seconds()) is None:
            raise PagemergeError("ksmd is not to be seen: measure on the host, not in a container")
        return spent


@contextlib.contextmanager
def borrowed(root: Path = ROOT) -> Iterator[Ksm]:
    """Kernel KSM, stopped, for us alone; knobs are restored and our pages forgotten at the end.

    On SIGTERM as well. End the processes whose pages were merged inside. Raises ``Unsupported``
    where there is no KSM or it is not ours to set.
    """
    if reason := lacks(root):
        raise Unsupported(reason)
    with kernel.locked(root, waiting=lambda said: print(said, file=sys.stderr)), terminable():
        ksm = Ksm(root)
        saved = ksm.kernel.knobs()
        try:
            ksm.write("run", STOP)
            yield ksm
        finally:
            _give_back(ksm, saved)


def _give_back(ksm: Ksm, saved: Knobs) -> None:
    """Forget our pages, and restore the knobs.

    Again for a while if the kernel refuses: a process that is ending, such as the child of one that
    was killed, maps its pages a moment longer, and until then the kernel does not take another
    max_page_sharing (mm/ksm.c, ``max_page_sharing_store``).
    """
    deadline = time.monotonic() + FORGETTING
    while True:
        try:
            try:
                ksm.forget()
            finally:
                ksm.kernel.put_back(saved)
            return
        except PagemergeError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def lacks(root: Path = ROOT) -> str | None:
    """Why kernel KSM cannot be measured here, or nothing."""
    return kernel.Ksm(root).why_not()
