"""Containers of podman: a rule by cgroup opts them in, unless a seccomp filter confines them."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pagemerge.linux.ksm import is_mergeable
from tests.conftest import missing
from tests.integration.test_governor import governed
from tests.integration.test_host_root import ksm
from tests.support.hubs import ALONE

__all__ = ["ksm"]  # a fixture

RULE = '[kernel]\nacross_users = true\n[[rule]]\ncgroup = "*/libpod-*"\nopt = "in"\n'
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]

Start = Callable[..., int]

pytestmark = pytest.mark.requires("kernel", "root")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a container with options; returns the pid of its program, as the host has it."""
    for name in ("podman", "runc", "busybox"):
        if not shutil.which(name):
            missing("podman", f"{name} is not installed")
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin" / "busybox")
    podman = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
    podman += ["--storage-driver", "vfs", "--events-backend", "none"]
    short = Path(tempfile.mkdtemp(prefix="pagemerge-"))  # podman takes 50 characters at most
    podman += ["--root", str(short / "storage"), "--runroot", str(short / "run")]

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*podman, *words], capture_output=True, text=True, check=False, timeout=60
        )

    with ExitStack() as stack:
        stack.callback(shutil.rmtree, short, ignore_errors=True)

        def started(*options: str) -> int:
            words = ["--detach", "--network", "none", *LIMITS, *options, "--rootfs", str(root)]
            done = ask("run", *words, "/bin/busybox", "sleep", "600")
            if done.returncode:
                missing("podman", f"it cannot start a container here: {done.stderr.strip()[-200:]}")
            name = done.stdout.strip()
            stack.callback(ask, "rm", "--force", "--time", "0", name)
            [found] = json.loads(ask("inspect", name).stdout)
            pid = found["State"]["Pid"]
            assert isinstance(pid, int) and pid > 0
            return pid

        yield started


def test_a_filter_keeps_a_container_out(ksm: object, start: Start, tmp_path: Path) -> None:
    confined, free = start(), start("--security-opt", "seccomp=unconfined")
    config = tmp_path / "rules.toml"
    config.write_text(RULE + ALONE)
    with governed(tmp_path, "--config", str(config)) as daemon:
        daemon.until(lambda: is_mergeable(free), "opt in the container without a filter")
        refused = f"process {confined} (busybox) is left as it is: process {confined} is confined"
        daemon.until(lambda: refused in daemon.log(), "say why it leaves the other one")
        assert daemon.stop() == 0
    assert not is_mergeable(confined)
