"""What happens to memory while a policy drives ksmd, sampled four times a second.

What is saved is measured, not asked of KSM: its counters lag while ksmd stands. A merged page that
was written, or whose process has ended, is in pages_sharing until ksmd comes by. So we take the
anonymous memory of each process (RssAnon counts merged pages in each), and subtract what all of
them take together, which their memory cgroup counts once.
"""

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

from tests.support.cgroup import Cgroup
from tests.support.ksm import Ksm

from pagemerge.errors import PagemergeError
from pagemerge.linux.accounts import available_bytes
from pagemerge.linux.ksm import process_ksm
from pagemerge.model import PAGE_SIZE

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
    """Their anonymous memory, each counted in full."""
    zero_bytes: int
    """Their pages that map the kernel's page of zeros, which are resident nowhere."""
    used_bytes: int
    """Anonymous memory that they take together, merged pages counted once."""
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
    def saved_bytes(self) -> int:
        """What merging saves."""
        return max(self.resident_bytes + self.zero_bytes - self.used_bytes, 0)

    @property
    def counted_bytes(self) -> int:
        """What KSM's counters say that it saves."""
        zero = int(self.ksm.get("ksm_zero_pages", 0))
        return (int(self.ksm["pages_sharing"]) + zero) * PAGE_SIZE


class Recorder:
    """A context in which samples are taken, by a thread; ``samples`` has them.

    ``observe`` is called with each, in that thread. An error there ends the sampling, and is
    raised at the end.
    """

    def __init__(
        self,
        kernel: Ksm,
        group: Cgroup,
        observe: Callable[[Sample], None],
        policy_cpu: Callable[[], float],
    ) -> None:
        self.kernel, self.group = kernel, group
        self.observe, self.policy_cpu = observe, policy_cpu
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
            resident_bytes=sum(anonymous_bytes(pid) for pid in pids),
            zero_bytes=sum(zero_bytes(pid) for pid in pids),
            used_bytes=self.group.anonymous_bytes(),
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


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory that a process maps, merged or not; 0 once it has gone."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if found := re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE):
            return int(found[1]) << 10
    return 0


def zero_bytes(pid: int) -> int:
    """Memory of a process that ksmd has mapped to the page of zeros; 0 once it has gone."""
    with contextlib.suppress(PagemergeError):
        return (process_ksm(pid).zero_pages or 0) * PAGE_SIZE
    return 0


def pressure(path: Path = PRESSURE) -> float | None:
    """Percent of the last ten seconds in which something waited for memory."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^some avg10=([\d.]+)", path.read_text(), re.MULTILINE):
            return float(found[1])
    return None
