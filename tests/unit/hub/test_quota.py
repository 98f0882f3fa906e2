"""Quotas: which new slots are made, and what the kernel says a hub may have."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pagemerge.hub.decide.shares import Limits, Verdict, judge, limits
from pagemerge.linux.accounts import cgroup_limit_bytes
from pagemerge.model import PAGE_SIZE

OK, OVER, FULL = Verdict
A, B = 11, 12
MOST = Limits(slots=10, slabs=100, slots_of_one=6, slabs_of_one=50)


def judged(
    donors: list[int], held: dict[int, int], slabs: int = 0, most: Limits = MOST
) -> list[int]:
    verdicts: list[int] = judge(np.array(donors, np.uint64), held, slabs, most).tolist()
    return verdicts


def test_each_has_its_share_and_all_together_theirs() -> None:
    assert judged([A] * 8, {}) == [OK] * 6 + [OVER] * 2
    assert judged([A, A, B, B], {A: 5, B: 5}) == [FULL, OVER, FULL, OVER]
    assert judged([A, A, B, B], {A: 5, B: 2}) == [OK, OVER, OK, OK]
    assert judged([A, B, A, B], {A: 3, B: 4}) == [OK, OK, OK, FULL]
    assert judged([B], {A: 20}) == [FULL], "a limit that was lowered since"
    assert judged([], {A: 20}) == []


def test_without_a_limit_of_memory_descriptors_count() -> None:
    most = Limits(slots=None, slabs=3, slots_of_one=1000, slabs_of_one=1)
    assert judged([A] * 5, {B: 10**6}, slabs=2, most=most) == [OK] * 5
    assert judged([A] * 5, {}, slabs=3, most=most) == [FULL] * 5


def test_limits_are_shares() -> None:
    most = limits(1000 * PAGE_SIZE, 10**12, 1024, 0.5, 0.25)
    assert most == Limits(slots=500, slabs=512, slots_of_one=125, slabs_of_one=128)
    most = limits(None, 4000 * PAGE_SIZE, 1024, 0.5, 0.25)
    assert most == Limits(slots=None, slabs=512, slots_of_one=1000, slabs_of_one=128)


def host(folder: Path, entries: str, **files: str) -> Path:
    """A proc and a cgroup file system with these files; ``__`` in a name stands for a slash."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text(entries)
    for name, text in files.items():
        path = folder / "cgroups" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def limit(folder: Path) -> int | None:
    return cgroup_limit_bytes(proc=folder / "proc", cgroups=folder / "cgroups")


def test_the_strictest_cgroup_counts(tmp_path: Path) -> None:
    made = host(
        tmp_path,
        "0::/a/b\n",
        memory_DOT_max="9999",
        a__memory_DOT_max="300000",
        a__b__memory_DOT_max="max\n",
    )
    assert limit(made) == 9999


def test_version_1_and_a_container_that_sees_its_own_as_the_root(tmp_path: Path) -> None:
    made = host(
        tmp_path, "5:cpu:/x\n4:memory:/of/the/host\n0::/\n", memory__memory_DOT_limit_in_bytes="7"
    )
    assert limit(made) == 7


def test_no_limit(tmp_path: Path) -> None:
    beyond = str(os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE + PAGE_SIZE)
    v1 = host(tmp_path / "1", "4:memory:/\n", memory__memory_DOT_limit_in_bytes=beyond)
    v2 = host(tmp_path / "2", "0::/a\n", a__memory_DOT_max="max\n")
    assert limit(v1) is limit(v2) is limit(tmp_path / "none") is None
