"""Programs that give up rights: no thread of ours keeps what the program has given up, and none of
our calls is taken for one of the program's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.support.building import compile_victim
from tests.support.hubs import Hub

WAYS = {"filter": 0, "filter without descriptors": 0, "ask": 0, "exit": 3, "handler": 0}
"""Way to give up rights -> exit status."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``rights``, compiled."""
    return compile_victim("rights.c", tmp_path_factory.mktemp("rights") / "rights")


def run(program: Path, hub: Hub, way: str) -> subprocess.CompletedProcess[str]:
    """Run it, with all its memory merged."""
    argv = [sys.executable, "-m", "pagemerge", "run", "--all", "--", str(program), way]
    env = {**os.environ, **hub.env}
    return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60, check=False)


@pytest.mark.parametrize("way", ["drop", "unshare"])
def test_the_agent_has_no_more_rights_than_the_program(program: Path, hub: Hub, way: str) -> None:
    """Each thread says what it may do, and its mount namespace."""
    if os.geteuid() != 0:
        missing("root", "only root has rights to give up")
    done = run(program, hub, way)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 2, told
    assert len(set(told)) == 1, told


@pytest.mark.parametrize(("way", "status"), WAYS.items())
def test_ends_as_without_us(program: Path, hub: Hub, way: str, status: int) -> None:
    """A filter that kills for calls of ours, and only asking for one; exit(2) of the only thread;
    setgid(2) in a signal handler that interrupts malloc."""
    done = run(program, hub, way)
    assert done.returncode == status, (done.stdout, done.stderr)
