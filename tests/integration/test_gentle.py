"""A hub with a latency budget gives way, merges all the same, and changes its budget on the fly."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pagemerge.demo.dialog import ask_all
from tests.conftest import Spawn
from tests.support.hubs import FAST, Hub
from tests.support.scheduling import slice_of

PAGES = 4096


def policies(pid: int) -> set[int]:
    """Scheduling policies of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {os.sched_getscheduler(int(it.name)) for it in tasks}


def agent_of(pid: int) -> int:
    """The agent's thread of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return next(int(it.name) for it in tasks if (it / "comm").read_bytes() == b"pagemerge\n")


@pytest.mark.requires("uffd")
def test_a_gentle_hub_merges_all_and_gives_way(hub_socket: Path, victim: Spawn) -> None:
    with Hub(hub_socket, FAST, arguments=["--gentle"]) as hub:
        members = [victim("member", env=hub.env) for _ in "abc"]
        ask_all(members, "fill", pages=PAGES, seed=3)
        hub.until(lambda: hub.status().pages_sharing >= 2 * PAGES, "merge all")
        assert policies(hub.pid) == {os.SCHED_BATCH}
        assert os.getpriority(os.PRIO_PROCESS, hub.pid) > os.getpriority(os.PRIO_PROCESS, 0)
        for member in members:
            assert os.SCHED_IDLE not in policies(member.pid), "it may hold the lock of its memory"
            agent = agent_of(member.pid)
            usual = os.sched_getscheduler(member.pid), os.getpriority(os.PRIO_PROCESS, member.pid)
            found = os.sched_getscheduler(agent), os.getpriority(os.PRIO_PROCESS, agent)
            assert found == usual, "it may hold the lock of its memory"
            default = slice_of(member.pid)  # 0 before Linux 6.12
            assert slice_of(agent) == default + default // 8, "whoever wakes up takes its processor"
        assert [it["wrong"] for it in ask_all(members, "check")] == [0] * 3

        # The file decides if it says so, also while the hub runs.
        Path(f"{hub_socket}.toml").write_text(f"{FAST}latency_percent = 50\n")
        hub.process.send_signal(signal.SIGHUP)
        hub.until(lambda: "latency_percent" in hub.log(), "read its file again")
        ask_all(members, "fill", pages=PAGES, seed=4)
        hub.until(lambda: hub.status().pages_sharing >= 2 * PAGES, "merge with another budget")


@pytest.mark.requires("uffd")
def test_a_budget_ends_with_the_setting(hub_socket: Path) -> None:
    with Hub(hub_socket, f"{FAST}latency_percent = 5\n") as hub:
        assert policies(hub.pid) == {os.SCHED_BATCH}
        Path(f"{hub_socket}.toml").write_text(FAST)
        hub.process.send_signal(signal.SIGHUP)
        hub.until(lambda: policies(hub.pid) == {os.SCHED_OTHER}, "stop giving way")
        if os.geteuid() == 0:
            usual = os.getpriority(os.PRIO_PROCESS, 0)
            hub.until(lambda: os.getpriority(os.PRIO_PROCESS, hub.pid) == usual, "be as nice again")
