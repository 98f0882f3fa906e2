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
from pagemerge.hub.reach import fetch_status
from pagemerge.model import PAGE_SIZE
from tests.support.building import compile_victim
from tests.support.cgroup import Cgroup, limited
from tests.support.hubs import PATIENCE, Hub, asked, until

pytestmark = [
    pytest.mark.requires("root", "cgroup", "uffd", "cc"),
    pytest.mark.timeout(120),
]
PROGRAMS, PAGES = 6, 16384
"""Programs of 67 MB each, two of which fill their memory at a time: 403 MB in all."""
SLOW = "[hub]\ncpu_percent = 0.5\n"
"""As little processor time as it can do without while there is enough memory."""


@pytest.fixture(scope="module")
def filler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_victim("filler.c", tmp_path_factory.mktemp("victims") / "filler")


@contextmanager
def programs(
    cgroup: Cgroup, filler: Path, socket: Path, speed: int, **env: str
) -> Iterator[list[Child]]:
    """Programs that have not filled their memory yet; clients of the hub at the socket. Where no
    hub runs they start one, in their cgroup. Each will fill ``speed`` bytes in a second."""
    run = [*cgroup.prefix(), sys.executable, "-m", "pagemerge", "run", "--quiet", "--"]
    words = [[*run, str(filler), str(PAGES), str(it + 1), str(speed)] for it in range(PROGRAMS)]
    env = {**os.environ, "PAGEMERGE_SOCKET": str(socket), **env}
    with ExitStack() as stack:
        yield [stack.enter_context(Child(it, env=env)) for it in words]


def fill(programs: list[Child], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Have them fill their memory, two at a time, and check it: all are alive and right.

    ``meanwhile`` is called while the last two fill theirs.
    """
    for number in range(0, len(programs), 2):
        some = programs[number : number + 2]
        for one in some:
            one.question("fill")
        if number == len(programs) - 2:
            meanwhile()
        assert [it.answer(PATIENCE) for it in some] == [{"wrong": 0}] * 2
    assert ask_all(programs, "check") == [{"wrong": 0}] * len(programs)


def starts_of(socket: Path) -> set[int]:
    """Processes that are, or want to be, the hub at a socket."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_bytes().split(b"\0")
            if b"--until-idle" in words and os.fsencode(socket) in words:
                found.add(int(file.parent.name))
    return found


def test_memory_is_merged_as_fast_as_it_is_filled(hub_socket: Path, filler: Path) -> None:
    """On a busy host the hub has some seconds to get its turn: 40 MB are filled in a second."""
    with (
        limited(256 << 20) as cgroup,
        Hub(hub_socket, SLOW, before=cgroup.prefix()) as hub,
        programs(cgroup, filler, hub_socket, 20_000_000, **hub.env) as running,
    ):
        fill(running)
        hub.assert_alive()
        assert "memory is short" in hub.log()
        own, most = PROGRAMS * PAGES * PAGE_SIZE // 32, cgroup.limit_bytes // 4 * 3
        hub.until(lambda: own < cgroup.used_bytes() < most, "merge what is merged slowly")


def test_a_hub_that_is_killed_comes_back_and_takes_over(hub_socket: Path, filler: Path) -> None:
    """The programs start it again: one process, though all of them miss the hub at once."""
    with (
        limited(384 << 20) as cgroup,
        programs(cgroup, filler, hub_socket, 60_000_000) as running,
    ):
        first = until(lambda: asked(hub_socket), "start").hub_pid
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
        assert took < 20, "seconds without a hub"
        # It adopts what was merged, and merges the rest.
        common = PAGES // 2
        deadline = time.monotonic() + PATIENCE
        while fetch_status(hub_socket).pages_sharing < (PROGRAMS - 1) * common:
            assert time.monotonic() < deadline, "the new hub does not merge"
            time.sleep(0.1)
        print(f"{took:.2f} s without a hub")
