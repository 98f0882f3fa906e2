"""A systemd of a test alone: PID 1 of namespaces, with a file system view and a cgroup of its own.

The namespaces share the host's kernel, its root directory and kernel KSM. Private are: processes,
mounts, /run, /var/log, /var/lib, all units, and a cgroup of version 2 that is the root of
systemd's tree.
Sources: systemd's Container Interface, unshare(1), cgroup_namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pagemerge.demo.dialog import end
from pagemerge.linux import process as linux
from tests.conftest import missing

SYSTEMD = Path("/lib/systemd/systemd")
CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
PATIENCE = 60.0
KEPT = (
    *("basic.target", "sysinit.target", "sockets.target", "paths.target", "timers.target"),
    *("slices.target", "local-fs.target", "local-fs-pre.target", "shutdown.target"),
    *("umount.target", "final.target", "systemd-journald.service", "systemd-journald.socket"),
)
"""Debian's units that this systemd has. All others would set up the host: its modules, its sysctls,
its devices."""

_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/systemd/system
mount -t tmpfs tmpfs /etc/systemd/system
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/lib
own=$(dirname "$2")
mkdir /run/kept && cd "$own/system" && cp -r $3 /run/kept
cd /
mount -t tmpfs tmpfs "$own/system" && mount -t tmpfs tmpfs "$own/system-generators"
cp -r /run/kept/. "$own/system/"
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cp -r "$1"/. /etc/systemd/system/
cp "$1"/pagemerge.toml /run/
mkdir -p /run/systemd/journald.conf.d
printf '[Journal]\\nReadKMsg=no\\n' >/run/systemd/journald.conf.d/test.conf
exec env -i PATH="$PATH" container=other \
    "$2" --unit=default.target --log-target=journal --show-status=0
"""


class Systemd:
    """A systemd that runs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def inside(self, *words: str) -> list[str]:
        """The command line that runs ``words`` in its namespaces."""
        spaces = ["--mount", "--pid", "--cgroup", "--ipc", "--uts"]
        return ["nsenter", f"--target={self.pid}", *spaces, *words]

    def run(self, *words: str, check: bool = True) -> str:
        """Run a command in its namespaces; returns what it prints."""
        done = subprocess.run(
            self.inside(*words), capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        said = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{' '.join(words)}: {said}\n{self.log()}"
        return said if not check else done.stdout

    def show(self, name: str, unit: str = "pagemerge.service") -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def log(self) -> str:
        """The journal."""
        done = subprocess.run(
            self.inside("journalctl", "--no-pager", "--output=short"),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        return done.stdout


@contextlib.contextmanager
def booted(units: Path) -> Iterator[Systemd]:
    """Boot a systemd with the units of a folder, which also has pagemerge.toml.

    Skips the test if this host does not allow that, and says why.
    """
    tools = [it for it in ("nsenter", "unshare", "journalctl") if not shutil.which(it)]
    if absent := [*tools, *([] if SYSTEMD.exists() else [str(SYSTEMD)])]:
        missing("systemd", f"{', '.join(absent)}: not installed (Debian: systemd, util-linux)")
    with _cgroup() as group, subprocess.Popen(
        ["unshare", "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--fork", "--mount-proc",
         "--kill-child", "sh", "-c", _BOOT, "sh", str(units), str(SYSTEMD), " ".join(KEPT)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
    ) as process:  # fmt: skip
        try:
            yield _started(process)
        finally:
            process.send_signal(signal.SIGKILL)  # --kill-child takes systemd and all else along
            end(process)


def _started(process: subprocess.Popen[bytes]) -> Systemd:  # noqa: RET503 - missing() raises
    """Wait until systemd answers."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        for pid in _children(process.pid):
            found = Systemd(pid)
            if "running" in found.run("systemctl", "is-system-running", check=False):
                return found
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    process.kill()
    assert process.stdout is not None
    said = process.stdout.read().decode(errors="replace").strip()
    missing("systemd", f"it does not boot in namespaces here: {said or 'no answer'}")


def _children(parent: int) -> Sequence[int]:
    found = []
    for pid in linux.pids():
        with contextlib.suppress(Exception):
            if linux.stat(pid).parent == parent and linux.name(pid) == "systemd":
                found.append(pid)
    return found


@contextlib.contextmanager
def _cgroup() -> Iterator[Path]:
    """Make a cgroup of version 2, and remove it with all below it."""
    home = next((it for it in CGROUPS if (it / "cgroup.procs").exists()), None)
    if home is None:
        missing("systemd", "no cgroup file system of version 2 is mounted")
    made = home / f"pagemerge-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        missing("systemd", f"{made}: {error.strerror}")
    try:
        yield made
    finally:
        deadline = time.monotonic() + PATIENCE
        while made.exists() and time.monotonic() < deadline:
            for folder in sorted(made.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):  # a process in it is still ending
                    folder.rmdir()
            with contextlib.suppress(OSError):
                made.rmdir()
