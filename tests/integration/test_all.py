"""``pagemerge run --all``: programs that know nothing of merging behave as they do without it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge.hub.reach import fetch_status
from tests.conftest import require
from tests.support.building import compile_victim
from tests.support.hubs import PATIENCE, Hub, asked, ends_at_last, until

RUN = [sys.executable, "-m", "pagemerge", "run", "--all", "--quiet", "--"]

WAYS = [
    *("closes all", "fork in thread", "forks of threads", "least stacks"),
    *("limited", "signals map", "thread ends last"),
    pytest.param("loses rights", marks=pytest.mark.requires("root")),
    pytest.param("own namespace", marks=pytest.mark.requires("root")),
]

pytestmark = pytest.mark.requires("cc", "uffd")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub of this file's own, which merges at first sight."""
    with (
        tempfile.TemporaryDirectory(prefix="pagemerge-test-") as folder,
        Hub(Path(folder) / "hub") as running,
    ):
        yield running
        running.assert_alive()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs are."""
    require("cc")
    folder = tmp_path_factory.mktemp("all")
    # The compiler must not know what malloc does: it would leave calls out.
    flags = ["-pthread", "-fno-builtin", "-Wno-alloc-size-larger-than", "-Wno-use-after-free"]
    for name in ("unmarked", "allocator"):
        compile_victim(f"{name}.c", folder / name, *flags)
    return folder


def told(argv: list[str], env: dict[str, str]) -> tuple[int, str]:
    """How a program ends, and what it prints."""
    got = subprocess.run(
        argv, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True, timeout=2 * PATIENCE
    )
    return got.returncode, got.stdout


@pytest.mark.parametrize("way", WAYS)
def test_ends_as_without(way: str, folder: Path, hub: Hub) -> None:
    argv = [str(folder / "unmarked"), way]
    bare = told(argv, {})
    assert bare[0] == 0
    assert bare[1]
    assert told([*RUN, *argv], hub.env) == bare


def test_malloc_answers_as_libcs(folder: Path, hub: Hub) -> None:
    argv = [str(folder / "allocator")]
    status, bare = told(argv, {})
    assert status == 0
    ended, merged = told([*RUN, *argv], hub.env)
    assert merged.splitlines() == bare.splitlines()
    assert ended == 0


WAITS = """
import sys
kept = [bytes([it]) * (1 << 20) for it in range(32)]
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_hub_that_such_a_program_starts_merges_none_of_its_own(tmp_path: Path) -> None:
    """It would be a client of its own, and would not end after the last one."""
    socket = tmp_path / "hub"
    env = {**os.environ, "PAGEMERGE_AUTOSTART": "1", "PAGEMERGE_SOCKET": str(socket)}
    argv = [*RUN, sys.executable, "-c", WAITS]
    with (
        ends_at_last(socket),
        subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program,
    ):
        assert program.stdin and program.stdout
        try:
            assert program.stdout.readline() == b"ready\n"
            until(lambda: (found := asked(socket)) and found.clients, "start, and have a client")
            status = fetch_status(socket)
            libraries = Path(f"/proc/{status.hub_pid}/maps").read_text()
            assert [it.pid for it in status.clients] == [program.pid]
            assert "libpagemerge_all" not in libraries
        finally:
            program.stdin.close()
        hub = Path(f"/proc/{status.hub_pid}")
        until(lambda: not hub.exists(), "end after its last client")
