"""``pagemerge doctor`` on this host: what it says is what the kernel then does."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pagemerge.cli.doctor import ask_ksm
from pagemerge.linux.aside import readers
from pagemerge.linux.host import examine
from pagemerge.linux.ksm import Ksm
from pagemerge.linux.prctl import merge_any
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn, lacks_uffd
from tests.support import ksm as lab
from tests.support.commands import NOBODY, PAGEMERGE, command, elsewhere


def asked(**where: Any) -> tuple[dict[str, Any], int]:
    done = command("doctor", "--json", **where)
    assert not done.stderr, done.stderr
    return json.loads(done.stdout), done.returncode


def test_it_agrees_with_what_the_kernel_does() -> None:
    said, status = asked()
    assert status == 0
    assert (said["host"]["userfaultfd"]["mode"] == "full") == (lacks_uffd() is None)
    # Who may not drive ksmd may still start programs for it, where it runs.
    runs = said["kernel_ksm"]["knobs"]["run"] == 1
    assert said["engines"]["kernel"]["works"] == (Ksm().why_not() is None or runs)
    assert said["host"]["linux"] == os.uname().release


def test_asking_leaves_nothing_behind() -> None:
    """No descriptor stays open, and the switch that is tried is as it was."""
    readers.close()
    descriptors = sorted(Path("/proc/self/fd").iterdir())
    examine()
    ask_ksm()
    readers.close()  # they stay for the next question
    assert sorted(Path("/proc/self/fd").iterdir()) == descriptors
    assert not merge_any()


@pytest.mark.requires("root", "kernel")
def test_what_has_gone_is_no_profit(victim: Spawn) -> None:
    """ksmd stands: its counters go on naming what ended with its process."""
    pages = 4096
    with lab.borrowed() as ksm:
        both = [victim("sharer", "merge") for _ in "ab"]
        for one in both:
            one.ask("fill", seed=1, shared=pages, own=0)
        scans = ksm.full_scans + 4
        ksm.start(**lab.FLAT_OUT)
        while ksm.full_scans < scans:
            os.sched_yield()
        ksm.write("run", 0)
        counted = ksm.counters().pages_sharing or 0
        said, _ = asked()
        assert counted >= pages
        now = said["kernel_ksm"]["merged_now_bytes"]
        assert now == pytest.approx(counted * PAGE_SIZE, rel=0.03)
        for one in both:
            one.close()
        said, _ = asked()
        assert said["kernel_ksm"]["merged_now_bytes"] < now - pages * PAGE_SIZE * 0.99
        assert said["kernel_ksm"]["counters"]["pages_sharing"] >= pages, "what this is about"


@pytest.mark.requires("root")
def test_an_ordinary_user_is_told_what_to_ask_for() -> None:
    said, status = asked(user=NOBODY)
    assert status == 0, "merging at birth takes no privilege"
    assert said["engines"]["user"]["works"]
    if said["host"]["userfaultfd"]["mode"] != "full":
        assert said["engines"]["user"]["barrier"] == "intern"
        assert "vm.unprivileged_userfaultfd" in said["engines"]["user"]["lacks"]
    assert "needs root" in said["kernel_ksm"]["why_not"] or not Ksm().root.exists()


@pytest.mark.requires("root", "kernel")
def test_a_container_whose_sys_is_read_only() -> None:
    """As container engines mount it."""
    at = "/sys/kernel/mm/ksm"
    script = f"mount --bind {at} {at} && mount -o remount,bind,ro {at}"
    done = elsewhere(script, "doctor", "--json")
    said = json.loads(done.stdout)
    assert "read-only" in said["kernel_ksm"]["why_not"]
    assert "from the host" in said["kernel_ksm"]["why_not"]
    runs = said["kernel_ksm"]["knobs"]["run"] == 1 or said["kernel_ksm"]["driver"] is not None
    assert said["engines"]["kernel"]["works"] == runs


@pytest.mark.requires("root")
def test_a_container_without_ksm() -> None:
    done = elsewhere("mount -t tmpfs none /sys/kernel/mm", "doctor", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["engines"]["kernel"]["works"]) == (0, False)
    assert "CONFIG_KSM" in said["engines"]["kernel"]["lacks"]


@pytest.mark.requires("root")
def test_where_no_engine_can_work_it_is_77() -> None:
    """No kernel KSM, and a Yama that lets nobody read anybody: both are said."""
    if not Path("/proc/sys/kernel").is_dir():
        pytest.skip("there is no /proc/sys")
    done = elsewhere(
        "mount -t tmpfs none /sys/kernel/mm && mount -t tmpfs none /proc/sys/kernel"
        " && mkdir /proc/sys/kernel/yama && echo 3 > /proc/sys/kernel/yama/ptrace_scope",
        "doctor",
    )
    assert done.returncode == 77
    assert done.stdout.startswith("This host cannot merge.\n")
    assert "ptrace_scope=3" in done.stdout and "CONFIG_KSM" in done.stdout


def test_in_a_pipe_it_is_plain() -> None:
    argv = [*PAGEMERGE, "doctor"]
    said = subprocess.check_output(argv, text=True, env={**os.environ, "TERM": "xterm-256color"})
    assert "\x1b" not in said
    assert said.startswith("This host can merge with ")
