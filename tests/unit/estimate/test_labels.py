"""The groups that a process belongs to, by files of /proc made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagemerge.estimate import labels
from pagemerge.find.process import Process
from pagemerge.find.sources import ProcessSource
from pagemerge.linux.domain import Domain

PID = 4711
ID = "8c1f0e2ab3d4" + "0" * 52
UID = "3b2e1f64-0c47-4c3e-9d55-0b7f5d6a1c22"


def proc(folder: Path, cgroup: str = "/", command: str = "") -> Path:
    (folder / str(PID)).mkdir()
    (folder / str(PID) / "cgroup").write_text(f"0::{cgroup}\n")
    (folder / str(PID) / "cmdline").write_text("\0".join(command.split(" ")) + "\0")
    return folder


@pytest.mark.parametrize(
    ("cgroup", "named"),
    [
        (f"/system.slice/docker-{ID}.scope", "8c1f0e2ab3d4"),
        (f"/docker/{ID}", "8c1f0e2ab3d4"),
        (f"/machine.slice/libpod-{ID}.scope/container", "8c1f0e2ab3d4"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-"
            f"pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope",
            f"pod {UID} / 8c1f0e2ab3d4",
        ),
        (f"/kubepods/besteffort/pod{UID}/{ID}", f"pod {UID} / 8c1f0e2ab3d4"),
        ("/system.slice/redis.service", ""),
        ("/user.slice/user-0.slice/session-1.scope", ""),
        (f"/docker/{ID[:63]}", ""),
        (f"/docker/{ID}; rm", ""),
        ("/", ""),
    ],
)
def test_containers(tmp_path: Path, cgroup: str, named: str) -> None:
    assert labels.container(PID, proc(tmp_path, cgroup)) == named


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("qemu-system-x86_64 -name web -m 1G", "web"),
        (f"qemu-system-x86_64 -name guest=db,debug-threads=on -uuid {UID}", f"db ({UID})"),
        (f"/usr/bin/kvm -uuid {UID}", f"guest of process {PID} ({UID})"),
        ("qemu-system-x86_64 -name web -uuid nonsense", "web"),
        ("python3 -name web", ""),
    ],
)
def test_guests(tmp_path: Path, command: str, named: str) -> None:
    assert labels.guest(PID, proc(tmp_path, command=command)) == named


def test_units(tmp_path: Path) -> None:
    folder = proc(tmp_path, "/system.slice/redis.service/payload")
    assert labels.unit(PID, folder) == "redis.service"


def test_what_is_in_no_group() -> None:
    gone = ProcessSource(Process(2**22 - 1, "gone", 0), domain=Domain(0))
    assert labels.label(gone, "process") == f"{2**22 - 1} gone"
    assert labels.label(gone, "user") == "root"
    assert labels.label(gone, "domain") == "uid 0"
    for kind in ("guest", "container", "unit"):
        assert labels.label(gone, kind) == labels.OTHERS
