"""What happens to memory while a policy drives ksmd, sampled four times a second."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from pagemerge.model import PAGE_SIZE
from pagemerge.watch.memory import available_bytes

from .ksm import Ksm

EVERY = 0.25
"""Seconds between two samples."""
PRESSURE = Path("/proc/pressure/memory")


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment; a line of a trace."""

    seconds: float
    """Since the workload began."""
    phase: str
    """What happened last."""
    processes: int
    """Tenants that have opted in."""
    resident_bytes: int
    """Their memory, merged or not."""
    ksm: dict[str, int | str]
    """Every file of /sys/kernel/mm/ksm."""
    ksmd_cpu_seconds: float
    """Since the workload began."""
    policy_cpu_seconds: float
    """Of the process that drives ksmd, from its start; 0 if there is none."""
    available_bytes: int | None
    """MemAvailable, and what the processors' lists hold."""
    pressure: float | None
    """PSI, memory, "some avg10": percent of the last ten seconds; None where it is not there."""

    @property
    def saved_pages(self) -> int:
        """What merging saves; others' pages included."""
        return int(self.ksm["pages_sharing"]) + int(self.ksm.get("ksm_zero_pages", 0))


class Recorder:
    """A context in which samples are taken, by a thread; ``samples`` has them.

    ``observe`` is called with each, in that thread. An error there ends the sampling, and is
    raised at the end.
    """

    def __init__(
        self, kernel: Ksm, observe: Callable[[Sample], None], policy_cpu: Callable[[], float]
    ) -> None:
        self.kernel, self.observe, self.policy_cpu = kernel, observe, policy_cpu
        self.samples: list[Sample] = []
        self.phase = ""
        self.pids: tuple[int, ...] = ()
        """Set, as ``phase`` is, by who plays the workload."""
        self.began = time.monotonic()
        self._spent = kernel.cpu_seconds()
        self._enough = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sampling")

    def now(self) -> Sample:
        """One sample."""
        pids = self.pids
        return Sample(
            seconds=round(time.monotonic() - self.began, 3),
            phase=self.phase,
            processes=len(pids),
            resident_bytes=sum(resident_bytes(pid) for pid in pids),
            ksm=self.kernel.readings(),
            ksmd_cpu_seconds=round(self.kernel.cpu_seconds() - self._spent, 2),
            policy_cpu_seconds=round(self.policy_cpu(), 2),
            available_bytes=available_bytes(),
            pressure=pressure(),
        )

    def _run(self) -> None:
        due = self.began
        while not self._enough.wait(max(0.0, due - time.monotonic())):
            try:
                self.samples.append(sample := self.now())
                self.observe(sample)
            except Exception as error:
                self._error = error
                return
            due = max(due + EVERY, time.monotonic() + EVERY / 2)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._enough.set()
        self._thread.join()
        if self._error and error is None:
            raise self._error


def write(path: Path, samples: Sequence[Sample]) -> None:
    """Write a trace: a line of JSON for each sample."""
    with path.open("w") as lines:
        for sample in samples:
            lines.write(json.dumps(asdict(sample)) + "\n")


def byte_seconds(curve: Sequence[tuple[float, int]]) -> float:
    """The integral of a curve of (seconds, bytes)."""
    return sum(
        (later - earlier) * (before + after) / 2
        for (earlier, before), (later, after) in pairwise(curve)
    )


def reaches(
    curve: Sequence[tuple[float, int]], goal: float, begin: float, end: float
) -> float | None:
    """Seconds from ``begin`` until the curve has ``goal`` bytes and keeps them to the ``end``.

    None if it does not.
    """
    window = [(at, size) for at, size in curve if begin <= at < end]
    short = [at for at, size in window if size < goal]
    if not window or (short and short[-1] == window[-1][0]):
        return None
    if not short:
        return 0.0
    return next(at for at, _ in window if at > short[-1]) - begin


def saved_curve(samples: Sequence[Sample]) -> list[tuple[float, int]]:
    """(seconds, bytes saved since the first sample)."""
    base = samples[0].saved_pages
    return [(it.seconds, (it.saved_pages - base) * PAGE_SIZE) for it in samples]


def resident_bytes(pid: int) -> int:
    """Memory that a process has touched, merged or not; 0 once it has gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_SIZE
    return 0


def pressure(path: Path = PRESSURE) -> float | None:
    """Percent of the last ten seconds in which something waited for memory."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^some avg10=([\d.]+)", path.read_text(), re.MULTILINE):
            return float(found[1])
    return None
