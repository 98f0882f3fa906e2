"""The hub's processor budget holds over time, whatever its clients do."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pagemerge.demo.dialog import ask_all
from tests.conftest import Spawn
from tests.support.hubs import Hub
from tests.support.stranger import Stranger

SECONDS = 10.0


def share(hub: Hub, victim: Spawn) -> float:
    """Of a core, over some seconds in which clients come, go and rewrite all the time."""
    members = [victim("member", env=hub.env) for _ in "ab"]
    ask_all(members, "fill", pages=4096, seed=0)
    before, began, turn = hub.status().cpu_seconds, time.monotonic(), 0
    while time.monotonic() < began + SECONDS:
        turn += 1
        ask_all(members, "fill", pages=4096, seed=turn)
        for _ in range(4):
            with Stranger(hub.socket) as stranger:
                stranger.hello()
    used = hub.status().cpu_seconds - before
    return used / (time.monotonic() - began)


@pytest.mark.requires("uffd")
def test_the_budget_holds(hub_socket: Path, victim: Spawn) -> None:
    with Hub(hub_socket, arguments=["--cpu", "10"]) as hub:
        assert 0 < share(hub, victim) < 0.25


@pytest.mark.parametrize("percent", ["0", "-5", "101", "nan", "lots"])
def test_a_bad_budget_is_wrong_usage(percent: str, hub_socket: Path) -> None:
    argv = [sys.executable, "-m", "pagemerge", "daemon", f"--cpu={percent}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--cpu" in done.stderr
    assert "Traceback" not in done.stderr
    assert not hub_socket.exists()
