"""What bystanders wait: honest members that have a megabyte merged at once, again and again."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pagemerge.demo.dialog import Child

FACTOR = 3.0
"""Times that a bystander may wait what it waits in quiet."""

FLOOR = 0.010
"""Seconds that a wait may be longer whatever it is in quiet: the host's own noise."""

_COPY = """
import time
took, wrong, end = [], 0, time.monotonic() + {seconds}
while time.monotonic() < end:
    page = (
        np.frombuffer(os.urandom(2048), np.uint64).reshape(256, 1)
        if len(took) % 4 or not took else page
    )
    data = np.repeat(page, 512, axis=1)
    data[:, 0] = np.arange(256)
    began = time.perf_counter()
    copy = pagemerge.copy(data)
    took.append(time.perf_counter() - began)
    wrong += int((copy != data).any())
    time.sleep(0.03)
answer = dict(took=took, wrong=wrong)
"""
"""A megabyte of new contents three times of four, else of those before."""


@dataclass(frozen=True)
class Waits:
    """Of one bystander in one phase."""

    took: list[float]
    """Seconds, each copy."""
    wrong: int
    """Copies that were not what they must be."""

    @property
    def median(self) -> float:
        return statistics.median(self.took)

    @property
    def late(self) -> float:
        """The 99th percentile; of few, the second longest."""
        ranked = sorted(self.took)
        return ranked[min(int(len(ranked) * 0.99), max(len(ranked) - 2, 0))]

    def told(self) -> str:
        """In words."""
        return f"median {self.median * 1e3:.1f}, p99 {self.late * 1e3:.1f} ms of {len(self.took)}"


def ask(members: Sequence[Child], seconds: float) -> None:
    """Have all of them copy for so long; ``answers`` fetches what came of it."""
    for member in members:
        member.question("call", code=_COPY.format(seconds=seconds))


def answers(members: Sequence[Child]) -> list[Waits]:
    """What each of them has waited."""
    return [Waits(**member.answer()) for member in members]


def together(parts: Sequence[Waits]) -> Waits:
    """Several phases as one."""
    return Waits([it for part in parts for it in part.took], sum(part.wrong for part in parts))


def faults(name: str, quiet: Waits, beside: Waits, floor: float) -> list[str]:
    """What is not as it must be."""
    found = []
    if quiet.wrong or beside.wrong:
        found.append(f"{name}: {quiet.wrong + beside.wrong} copies with a wrong byte")
    for what in ("median", "late"):
        before, now = getattr(quiet, what), getattr(beside, what)
        if now > max(FACTOR * before, before + floor):
            found.append(
                f"{name} waits too long ({'p99' if what == 'late' else what}): "
                f"{now * 1e3:.1f} ms, and {before * 1e3:.1f} in quiet"
            )
    return found
