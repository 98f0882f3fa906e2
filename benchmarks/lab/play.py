"""A workload that is always the same: tenants arrive, load data, rewrite, change it, and leave.

Each step has its time, and takes its time, whoever merges meanwhile and however busy the host is;
how late the latest one was is told.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pagemerge.demo.dialog import Child

from .trace import Recorder

TENANT = Path(__file__).with_name("tenant.py")
PATIENCE = 120.0
"""Seconds that a step may take beyond its time before the run is given up."""
TENANTS = 4


@dataclass(frozen=True, slots=True)
class Step:
    """Something happens, at a time, to some tenants."""

    at: float
    """Seconds since the workload began."""
    do: str
    """arrive | rewrite | change | check | leave."""
    who: tuple[int, ...]
    seconds: float = 0.0
    """That it takes."""

    @property
    def name(self) -> str:
        """In words."""
        everybody = len(self.who) == TENANTS
        return f"all {self.do}" if everybody else f"{self.who[0] + 1} {self.do}s"

    def faster(self, times: float) -> Step:
        """The same in less time."""
        return Step(self.at / times, self.do, self.who, self.seconds / times)


LENGTH = 190.0
"""Seconds that it takes."""
STEPS = (
    *(Step(25.0 * index, "arrive", (index,), 5.0) for index in range(TENANTS)),
    Step(95.0, "rewrite", (1,), 25.0),
    Step(130.0, "change", tuple(range(TENANTS)), 3.0),
    *(Step(156.0 + 8 * index, "check", (index,), 6.0) for index in range(TENANTS)),
    *(Step(162.0 + 8 * index, "leave", (index,)) for index in range(TENANTS)),
)


@dataclass(frozen=True, slots=True)
class Workload:
    """How large, and how fast."""

    pages: int
    """Of each tenant."""
    length: float
    steps: Sequence[Step]

    @classmethod
    def of(cls, pages: int, length: float = LENGTH) -> Workload:
        """All steps, in ``length`` seconds, sorted by time."""
        steps = sorted((it.faster(LENGTH / length) for it in STEPS), key=lambda it: it.at)
        return cls(pages, length, steps)

    def windows(self) -> list[tuple[Step, float]]:
        """Steps that bring something to merge, and when the next step begins."""
        ends = [*(it.at for it in self.steps[1:]), self.length]
        pairs = zip(self.steps, ends, strict=True)
        return [(step, end) for step, end in pairs if step.do in ("arrive", "change")]


@dataclass(slots=True)
class Outcome:
    """What came of a workload."""

    wrong_pages: int = 0
    checked: int = 0
    """Tenants that have checked their memory."""
    late_seconds: float = 0.0
    """How much later, or longer, than planned the latest step was."""


@dataclass(slots=True)
class _Tenant:
    child: Child
    doing: Step | None = None


@dataclass(slots=True)
class _Stage:
    recorder: Recorder
    workload: Workload
    stack: contextlib.ExitStack
    outcome: Outcome = field(default_factory=Outcome)
    tenants: dict[int, _Tenant] = field(default_factory=dict)

    def do(self, step: Step) -> None:
        self._late(time.monotonic() - self.recorder.began - step.at)
        for index in step.who:
            if step.do == "arrive":
                self._arrive(index, step)
            elif step.do == "leave":
                self._leave(index)
            else:
                self._begin(self.tenants[index], step.do, step)

    def _arrive(self, index: int, step: Step) -> None:
        prefix = self.recorder.group.prefix()
        argv = [*prefix, sys.executable, str(TENANT), str(os.getpid())]
        child = self.stack.enter_context(Child(argv))
        child.ask("open", index=index, pages=self.workload.pages)
        self.recorder.pids += (child.pid,)
        self.tenants[index] = _Tenant(child)
        self._begin(self.tenants[index], "load", step)

    def _begin(self, tenant: _Tenant, do: str, step: Step) -> None:
        self._finish(tenant)
        timing = {} if do == "check" else {"seconds": step.seconds}
        tenant.child.question(do, **timing)
        tenant.doing = step

    def _finish(self, tenant: _Tenant) -> None:
        """Take the answer to what it was asked last."""
        if (step := tenant.doing) is None:
            return
        answer = tenant.child.answer(step.seconds + PATIENCE)
        tenant.doing = None
        self._late(answer["seconds"] - step.seconds)
        if "wrong" in answer:
            self.outcome.wrong_pages += answer["wrong"]
            self.outcome.checked += 1

    def _leave(self, index: int) -> None:
        tenant = self.tenants.pop(index)
        self._finish(tenant)
        pid = tenant.child.pid
        self.recorder.pids = tuple(it for it in self.recorder.pids if it != pid)
        tenant.child.close()

    def _late(self, seconds: float) -> None:
        self.outcome.late_seconds = max(self.outcome.late_seconds, round(seconds, 2))


def play(workload: Workload, recorder: Recorder) -> Outcome:
    """Play it from ``recorder.began`` on. Raises ``PagemergeError`` if a tenant fails or ends."""
    with contextlib.ExitStack() as stack:
        stage = _Stage(recorder, workload, stack)
        for step in workload.steps:
            _until(recorder.began + step.at)
            recorder.phase = step.name
            stage.do(step)
        _until(recorder.began + workload.length)
        return stage.outcome


def _until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
