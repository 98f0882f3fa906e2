"""Who has mergeable memory: asked when new, at doubled ages, and seldom when old."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagemerge.ksmd.mergeable import SELDOM, Mergeable


class Proc:
    """A folder that stands for /proc, and what is asked of its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mergeable: set[int] = set()
        self.asked: list[int] = []
        self.found = Mergeable(self._ask, folder)

    def _ask(self, pid: int) -> bool:
        self.asked.append(pid)
        return pid in self.mergeable

    def come(self, *pids: int) -> None:
        for pid in pids:
            (self.folder / str(pid)).mkdir()

    def go(self, pid: int) -> None:
        (self.folder / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    (tmp_path / "self").mkdir()
    return Proc(tmp_path)


def test_who_is_mergeable_is_seen_as_it_comes_and_goes(proc: Proc) -> None:
    proc.mergeable = {20, 30}
    proc.come(30, 10, 20)
    proc.found.refresh(0.0)
    assert proc.found.pids == [20, 30]
    proc.go(20)
    proc.found.refresh(0.5)
    assert proc.found.pids == [30]


def test_the_young_are_asked_often_and_the_old_seldom(proc: Proc) -> None:
    proc.come(10)
    times = [tick * 0.5 for tick in range(400)]
    asked = []
    for now in times:
        proc.found.refresh(now)
        if proc.asked:
            asked.append(now)
            proc.asked.clear()
    assert asked[:5] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert asked[-1] - asked[-2] == SELDOM
    assert len(asked) < 15


def test_who_marks_its_memory_late_is_seen(proc: Proc) -> None:
    proc.come(10)
    proc.found.refresh(0.0)
    proc.mergeable = {10}
    proc.found.refresh(1.0)
    assert proc.found.pids == [10]


def test_who_was_marked_just_now_is_asked_at_once(proc: Proc) -> None:
    proc.come(10)
    for now in (0.0, 10.0, 20.0, 40.0):
        proc.found.refresh(now)
    proc.mergeable = {10}
    proc.found.refresh(41.0)
    assert proc.found.pids == []
    proc.found.forget([10])
    proc.found.refresh(42.0)
    assert proc.found.pids == [10]
