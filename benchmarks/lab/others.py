"""How busy other programs keep the processors while something is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.support.ksm import Ksm

from .policies import family_cpu_seconds

BUSY = (0, 1, 2, 5, 6, 7)
"""Fields of the line ``cpu`` of /proc/stat that are work: user, nice, system, irq, softirq, and
steal, which other machines on the same host take (proc_stat(5))."""


class Others:
    """The processor time of everything but this benchmark, what it has started, and ksmd."""

    def __init__(self, kernel: Ksm | None) -> None:
        self._kernel = kernel
        self._begun, self._spent = time.monotonic(), self._seconds()

    def cores(self) -> float:
        """Processors that the others have kept busy since the last call, on average."""
        now, spent = time.monotonic(), self._seconds()
        passed, used = now - self._begun, spent - self._spent
        self._begun, self._spent = now, spent
        return max(used / passed, 0.0)

    def wait(self, few: float, patience: float) -> None:
        """Wait until the others keep fewer than ``few`` processors busy for a second."""
        deadline = time.monotonic() + patience
        self.cores()
        while time.monotonic() < deadline:
            time.sleep(1.0)
            if self.cores() < few:
                return

    def _seconds(self) -> float:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        busy = sum(int(fields[it]) for it in BUSY) / os.sysconf("SC_CLK_TCK")
        ours = family_cpu_seconds(os.getpid())
        return busy - ours - (self._kernel.cpu_seconds() if self._kernel else 0.0)
