"""Real guests, merged while they run; each checks its own memory and says so on its serial line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmarks.lab import guest, hub

from pagemerge.model import PAGE_SIZE
from tests.support import ksm

pytestmark = [pytest.mark.requires("qemu"), pytest.mark.timeout(300)]

COMMON_BYTES = 8 << 20
SIZE = guest.Size(memory_mib=128, own_mib=8, zero_mib=16, every_seconds=1)
OTHER = guest.Size(memory_mib=112, own_mib=12, zero_mib=8, every_seconds=1)
SAVED = (2 * COMMON_BYTES + 2 * (8 << 20)) // PAGE_SIZE
"""Pages that three guests must save at the least: two copies of the files, and of zeros."""

RUN = [sys.executable, "-m", "pagemerge", "run", "--engine", "user", "--"]


@pytest.fixture(scope="module")
def image() -> Iterator[guest.Image]:
    with guest.image(COMMON_BYTES) as booted:
        yield booted


@pytest.fixture
def own_hub() -> Iterator[hub.Hub]:
    with hub.running(cpu_percent=100, longest_pause=0.2) as running:
        yield running


@contextmanager
def guests(image: guest.Image, *sizes: guest.Size, **options: Any) -> Iterator[list[guest.Guest]]:
    """Guests that have filled their memory."""
    with ExitStack() as stack:
        booting = [stack.enter_context(guest.Guest(image, it, **options)) for it in sizes]
        for one in booting:
            one.until_ready()
        yield booting


def until(saved: Callable[[], int], pages: int, patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while saved() < pages:
        assert time.monotonic() < deadline, f"{saved()} pages saved, not {pages}"
        time.sleep(0.1)


def work(running: list[guest.Guest]) -> None:
    """Have the guests check their memory, write to merged pages, and check it again."""
    for word, answer in (("check", "right"), ("change", "changed"), ("check", "right")):
        for one in running:
            one.tell(word)
        for one in running:
            one.hear(answer)


@pytest.mark.requires("kernel")
def test_guests_under_the_kernel_engine(image: guest.Image) -> None:
    with ksm.borrowed() as kernel:
        kernel.start(**ksm.FLAT_OUT)
        with guests(image, SIZE, SIZE, OTHER) as running:
            until(lambda: kernel.sharing, SAVED)
            work(running)


@pytest.mark.requires("uffd")
def test_guests_under_the_user_engine(image: guest.Image, own_hub: hub.Hub) -> None:
    env = own_hub.environment()
    with guests(image, SIZE, SIZE, OTHER, prefix=RUN, env=env) as running:
        until(lambda: saved_by(own_hub), SAVED)
        before = own_hub.status().pages_sharing
        work(running)
        until(lambda: saved_by(own_hub), SAVED)  # what was written alike comes together again
        work(running)
        assert before > 0
        clients = {client.pid: client for client in own_hub.status().clients}
        assert {one.pid for one in running} <= clients.keys()
        assert all(client.merged_pages > 0 for client in clients.values())


@pytest.mark.requires("uffd")
def test_a_disk_that_writes_into_guest_memory(
    image: guest.Image, own_hub: hub.Hub, tmp_path: Path
) -> None:
    """cache=none: QEMU reads the disk with O_DIRECT, straight into memory that is being merged."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 << 20))
    env = own_hub.environment()
    with (
        guests(image, SIZE, prefix=RUN, env=env, disk=disk) as (one,),
        guests(image, SIZE, prefix=RUN, env=env),
    ):
        until(lambda: saved_by(own_hub), COMMON_BYTES // PAGE_SIZE)
        scans = own_hub.status().full_scans
        for _ in range(8):
            one.ask("disk")
        one.ask("check")
        assert own_hub.status().full_scans > scans


def saved_by(running: hub.Hub) -> int:
    status = running.status()
    return status.pages_sharing + status.zero_pages
