"""What benchmarks say is saved: memory that several processes map counts once for all of them.

Copy-on-write after a fork shares pages as merging does, and needs no KSM.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from benchmarks.lab.trace import anonymous_bytes, zero_bytes

from pagemerge.demo.dialog import Child
from tests.support.building import VICTIMS
from tests.support.cgroup import Cgroup, limited

MIB = 1 << 20
SIZE = 64
INTERPRETER = 24 * MIB
"""Of Python itself, more than it takes: shared as well."""
BATCHED = MIB
"""The kernel accounts in batches, a processor each."""


@pytest.fixture
def group() -> Iterator[Cgroup]:
    with limited(1 << 30) as made:
        yield made


@pytest.mark.requires("cgroup")
def test_what_processes_share_is_saved_until_one_writes(group: Cgroup) -> None:
    argv = [*group.prefix(), sys.executable, str(VICTIMS / "copier.py"), str(SIZE)]
    with Child(argv) as child:
        pids = (child.ready["pid"], child.ready["parent"])

        def saved() -> int:
            return sum(anonymous_bytes(pid) for pid in pids) - group.anonymous_bytes()

        shared = saved()
        assert SIZE * MIB - BATCHED <= shared <= SIZE * MIB + INTERPRETER
        child.ask("write")
        assert saved() == pytest.approx(shared - SIZE * MIB // 2, abs=2 * BATCHED)
    assert [anonymous_bytes(pid) for pid in pids] == [zero_bytes(pid) for pid in pids] == [0, 0]
