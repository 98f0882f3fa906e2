"""How many more fit: forecasts for real processes. The oracle is their memory cgroup."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pagemerge.errors import NoSuchProcess
from pagemerge.estimate import fit
from pagemerge.find import process
from pagemerge.find.look import Look, look
from pagemerge.find.sources import Source, locate
from pagemerge.model import PAGE_SIZE
from tests.support import ksm
from tests.support.cgroup import Cgroup, limited

VICTIM = Path(__file__).parent.parent / "victims" / "pages.py"
MB = 1_000_000
COMMON = ["seed", "1", "pages", "0", "0", "3000"]
"""12.3 MB that all victims have."""


class Crowd:
    """Copies of one victim in a cgroup of their own."""

    def __init__(self, group: Cgroup, stack: ExitStack, *first: str) -> None:
        self.group, self.first = group, first
        self._stack = stack
        self.pids: list[int] = []

    def grow(self) -> bool:
        """Start one more, with 1000 zero pages, 500 equal ones and 1000 of its own; is it alive?"""
        own = ["seed", str(100 + len(self.pids)), "pages", "1000", "500", "1000"]
        command = [*self.group.prefix(), sys.executable, str(VICTIM), *self.first, *COMMON, *own]
        victim = subprocess.Popen(command, stdin=-1, stdout=-1)
        self._stack.enter_context(victim)
        self._stack.callback(victim.kill)
        assert victim.stdout
        if not (said := victim.stdout.readline()):
            return False
        self.pids.append(json.loads(said)["pid"])
        return True

    def look(self) -> Look:
        """Look at all of them."""
        named = process.named(str(pid) for pid in self.pids)
        sources: list[Source] = [locate(one) for one in named]
        return look(sources)


@pytest.fixture
def group() -> Iterator[Cgroup]:
    with limited(2000 * MB) as made:
        yield made


@pytest.fixture
def stack(group: Cgroup) -> Iterator[ExitStack]:
    """Ends the victims before the cgroup."""
    with ExitStack() as made:
        yield made


@pytest.mark.requires("root", "cgroup")
def test_what_one_more_costs_and_how_many_fit(group: Cgroup, stack: ExitStack) -> None:
    crowd = Crowd(group, stack)
    for _ in range(3):
        assert crowd.grow()
    forecast = fit.fit(crowd.look(), range(3))
    before = group.used_bytes()
    assert crowd.grow()
    assert forecast.cost.apart_bytes == pytest.approx(group.used_bytes() - before, rel=0.05)
    assert forecast.cost.own_bytes == pytest.approx(1000 * PAGE_SIZE, abs=6 * MB)

    group.limit(200 * MB)
    forecast = fit.fit(crowd.look(), range(4))
    assert forecast.room.limit
    assert forecast.room.limit.limit_bytes == pytest.approx(200 * MB, abs=PAGE_SIZE)
    assert forecast.apart.number == forecast.safe.number
    assert 2 <= forecast.apart.number < forecast.kernel.number
    for _ in range(forecast.apart.number):
        assert crowd.grow()
    # The kernel kills one of them as soon as the group is full.
    assert not (crowd.grow() and crowd.grow() and all(alive(pid) for pid in crowd.pids))


@pytest.mark.requires("root", "cgroup", "kernel")
def test_what_one_more_costs_when_ksmd_merges(group: Cgroup, stack: ExitStack) -> None:
    with ksm.borrowed() as kernel, stack:
        crowd = Crowd(group, stack, "merge")
        for _ in range(3):
            assert crowd.grow()
        forecast = fit.fit(crowd.look(), range(3))
        kernel.start(**ksm.FLAT_OUT, use_zero_pages=1)
        merge(kernel)
        before = group.used_bytes()
        saved = 3 * forecast.cost.private_bytes - group.anonymous_bytes()
        assert forecast.now.kernel_bytes == pytest.approx(saved, rel=0.05)

        again = fit.fit(crowd.look(), range(3))  # The same from memory that is merged already.
        assert again.cost.kernel_bytes == pytest.approx(forecast.cost.kernel_bytes, rel=0.03)
        assert again.cost.apart_bytes == pytest.approx(forecast.cost.apart_bytes, rel=0.03)
        assert again.now.saved_bytes == pytest.approx(saved, rel=0.05)
        assert again.now.kernel_bytes < 2 * MB

        assert crowd.grow()
        merge(kernel)
        grown = group.used_bytes() - before
        # The kernel charges ksmd's records to no group.
        assert forecast.cost.kernel_bytes - forecast.cost.record_bytes == pytest.approx(
            grown, rel=0.05, abs=0.3 * MB
        )


@pytest.mark.requires("root", "cgroup")
def test_workers_that_share_since_a_fork(group: Cgroup, stack: ExitStack) -> None:
    crowd = Crowd(group, stack)
    command = [*group.prefix(), sys.executable, str(VICTIM), *COMMON, "fork"]
    master = stack.enter_context(subprocess.Popen(command, stdin=-1, stdout=-1))
    stack.callback(master.kill)
    assert master.stdout
    report = json.loads(master.stdout.readline())
    crowd.pids = [report["pid"], report["child"]]
    forecast = fit.fit(crowd.look(), [1])
    shared = 3000 * PAGE_SIZE
    assert forecast.cost.unshared_bytes - forecast.cost.apart_bytes > shared
    assert forecast.cost.apart_bytes < 8 * MB
    assert forecast.safe.number < forecast.apart.number
    assert shared < forecast.now.saved_bytes < shared + 12 * MB


def test_a_model_that_ends_meanwhile_has_an_error(stack: ExitStack, group: Cgroup) -> None:
    crowd = Crowd(group, stack)
    assert crowd.grow()
    found = crowd.look()
    stack.close()
    with pytest.raises(NoSuchProcess):
        fit.fit(found, [0])
    with pytest.raises(NoSuchProcess):
        fit.like(found, "no-such-name")
    assert fit.like(found, str(crowd.pids[0])) == [0]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/statm").exists() and Path(f"/proc/{pid}/statm").read_text()[0] != "0"


def merge(kernel: ksm.Ksm) -> None:
    """Wait until ksmd merges nothing more: three scans without a change."""
    deadline, last, since = time.monotonic() + 30, (-1, -1), kernel.full_scans
    while True:
        counted = kernel.counters()
        now = (kernel.sharing, counted.ksm_zero_pages or 0)
        if now != last:
            last, since = now, kernel.full_scans
        elif kernel.full_scans >= since + 3 and now[0]:
            return
        assert time.monotonic() < deadline, f"ksmd goes on merging: {now}"
        time.sleep(0.02)
