"""Near the limit of a small memory cgroup: programs fill it three times over, and all is well."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child, ask_all
from pagemerge.errors import HubError
from pagemerge.hub.model import Status
from pagemerge.hub.reach import fetch_status
from pagemerge.model import PAGE_SIZE
from tests.support.building import compile_victim
from tests.support.cgroup import Cgroup, limited
from tests.support.hubs import PATIENCE, Hub

pytestmark = [
    pytest.mark.requires("root", "cgroup", "uffd", "cc"),
    pytest.mark.timeout(120),
]
LIMIT = 400 << 20
PROGRAMS, PAGES, SPEED = 8, 32768, 80_000_000
"""Programs of 134 MB each, which fill their memory at 80 MB/s, two at a time: 1,074 MB in all."""
SLOW = "[hub]\ncpu_percent = 5\n"
"""As little processor time as it can do without while there is enough memory."""


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with limited(LIMIT) as made:
        yield made


@pytest.fixture(scope="module")
def filler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_victim("filler.c", tmp_path_factory.mktemp("victims") / "filler")


@contextmanager
def programs(cgroup: Cgroup, filler: Path, socket: Path, **env: str) -> Iterator[list[Child]]:
    """Programs that have not filled their memory yet; clients of the hub at the socket.

    Where no hub runs they start one, in their cgroup.
    """
    run = [*cgroup.prefix(), sys.executable, "-m", "pagemerge", "run", "--quiet", "--"]
    words = [[*run, str(filler), str(PAGES), str(it + 1), str(SPEED)] for it in range(PROGRAMS)]
    env = {**os.environ, "PAGEMERGE_SOCKET": str(socket), **env}
    with ExitStack() as stack:
        yield [stack.enter_context(Child(it, env=env)) for it in words]


def fill(programs: list[Child], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Have them fill their memory, two at a time, and check it: all are alive and right.

    ``meanwhile`` is called when half of them have filled theirs.
    """
    for number in range(0, len(programs), 2):
        some = programs[number : number + 2]
        for one in some:
            one.question("fill")
        if number == len(programs) // 2:
            meanwhile()
        assert [it.answer(PATIENCE) for it in some] == [{"wrong": 0}] * 2
    assert ask_all(programs, "check") == [{"wrong": 0}] * len(programs)


def asked(socket: Path) -> Status | None:
    with suppress(HubError):
        return fetch_status(socket)
    return None


def starts_of(socket: Path) -> set[int]:
    """Processes that are, or want to be, the hub at a socket."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_bytes().split(b"\0")
            if b"--until-idle" in words and os.fsencode(socket) in words:
                found.add(int(file.parent.name))
    return found


def test_memory_is_merged_as_fast_as_it_is_filled(
    hub_socket: Path, cgroup: Cgroup, filler: Path
) -> None:
    before = cgroup.prefix()
    with (
        Hub(hub_socket, SLOW, before=before) as hub,
        programs(cgroup, filler, hub_socket, **hub.env) as running,
    ):
        fill(running)
        hub.assert_alive()
        assert "memory is short" in hub.log()
        own, most = PROGRAMS * PAGES * PAGE_SIZE // 32, LIMIT // 2
        hub.until(lambda: own < cgroup.used_bytes() < most, "merge what is merged slowly")


def test_a_hub_that_is_killed_comes_back_and_takes_over(
    hub_socket: Path, cgroup: Cgroup, filler: Path
) -> None:
    """The programs start it again: one process, though all of them miss the hub at once."""
    with programs(cgroup, filler, hub_socket) as running:
        first = fetch_status(hub_socket).hub_pid
        seen, took = set[int](), 0.0

        def kill() -> None:
            nonlocal took
            began = time.monotonic()
            os.kill(first, signal.SIGKILL)
            while time.monotonic() < began + PATIENCE:
                seen.update(starts_of(hub_socket))
                status = asked(hub_socket)
                if status and status.hub_pid != first and len(status.clients) == PROGRAMS:
                    break
            took = time.monotonic() - began

        fill(running, kill)
        assert len(seen - {first}) == 1
        assert took < 10, "seconds without a hub"
        saved = fetch_status(hub_socket)
        assert saved.pages_sharing + saved.zero_pages > PROGRAMS * PAGES // 2
        print(f"{took:.2f} s without a hub")
