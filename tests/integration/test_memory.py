"""The readers of the kernel's accounts, on a real process and the real kernel."""

from __future__ import annotations

import os

import pytest

from pagemerge.errors import AccessDenied, NoSuchProcess
from pagemerge.linux import accounts
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn


def test_footprint_of_a_real_process(victim: Spawn) -> None:
    pid = victim("mapper", "2000", "500").pid
    found = accounts.footprint(pid)
    assert found.slabs == accounts.Resident(500 * PAGE_SIZE, 500 * PAGE_SIZE)
    assert found.own_pss_bytes >= 2000 * PAGE_SIZE
    whole = accounts.resident(pid)
    assert found.total.rss_bytes == whole.rss_bytes
    # The kernel rounds PSS down once in smaps_rollup, and once a mapping in smaps.
    assert whole.pss_bytes == pytest.approx(found.total.pss_bytes, rel=0.05)


def test_cpu_seconds_of_a_real_process(victim: Spawn) -> None:
    worker = victim("mapper", "1", "1")
    used = worker.ask("spin", seconds=0.2)["seconds"]
    assert accounts.cpu_seconds(worker.pid) == pytest.approx(used, abs=0.05)


def test_this_host_has_memory() -> None:
    available = accounts.available_bytes()
    assert available is not None
    assert available > 0
    usage = accounts.cgroup_bytes(os.getpid())
    assert usage is None or usage > 0


def test_a_process_that_has_gone(victim: Spawn) -> None:
    worker = victim("mapper", "1", "1")
    worker.close()
    with pytest.raises(NoSuchProcess, match=f"there is no process {worker.pid}"):
        accounts.footprint(worker.pid)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every process")
def test_someone_elses_process() -> None:
    with pytest.raises(AccessDenied, match="process 1 belongs to another user"):
        accounts.footprint(1)
