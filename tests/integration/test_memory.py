"""The readers of the kernel's accounts, on a real process and the real kernel."""

from __future__ import annotations

import os

import pytest

from pagemerge.errors import AccessDenied, NoSuchProcess
from pagemerge.linux import accounts, smaps
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn


def test_anonymous_memory_of_a_real_process(victim: Spawn) -> None:
    """Slabs do not count, nor how many processes map the same libraries."""
    first = victim("mapper", "2000", "500")
    alone = accounts.resident(first.pid)
    own = sum(piece.anonymous_bytes for piece in smaps.pieces(first.pid))
    assert alone.anonymous_pss_bytes == pytest.approx(own, rel=0.01)  # a few pages of a fork
    assert alone.anonymous_pss_bytes >= 2000 * PAGE_SIZE
    assert alone.pss_bytes >= alone.anonymous_pss_bytes + 500 * PAGE_SIZE
    others = [victim("mapper", "1", "1") for _ in range(4)]
    beside = accounts.resident(first.pid)
    for other in others:
        other.close()
    after = accounts.resident(first.pid)
    assert beside.pss_bytes + 20 * PAGE_SIZE < after.pss_bytes
    assert beside.anonymous_pss_bytes == after.anonymous_pss_bytes


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
        accounts.resident(worker.pid)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every process")
def test_someone_elses_process() -> None:
    with pytest.raises(AccessDenied, match="process 1 belongs to another user"):
        accounts.resident(1)
