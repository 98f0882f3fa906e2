"""The lines of docs/tutorial.md, as they stand there; test_walk.py runs those of the guests."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.integration.test_host_root import ksm

__all__ = ["ksm"]  # a fixture

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
((PYTHON, PRINTS),) = re.findall(
    r"^```python\n(.*?)^```\n.*?^```text\n(.*?)^```$", PAGE, re.S | re.M
)
PODMAN = (
    "podman --runtime runc --cgroup-manager cgroupfs --storage-driver vfs --events-backend none"
)
LIMITS = "--network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024"


def steps(heading: str) -> list[str]:
    """The lines of a part that are typed, and the documents in them."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```console\n(.*?)^```$", part, re.S | re.M)
    assert blocks, heading
    return [re.sub(r"^[$#] ", "", line) for block in blocks for line in block.splitlines()]


def said_by(lines: list[str], folder: Path, **variables: str) -> str:
    """Run lines in a shell, with the pagemerge that is tested; returns all that they print."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PAGEMERGE_HISTORY": str(folder / "history"), **variables}
    output = folder / "said"
    with output.open("w") as file:
        shell = subprocess.Popen(
            ["bash", "-c", "\n".join(["set -em", *lines])],
            cwd=folder,
            env=env,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            status = shell.wait(100)
        finally:
            for process in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):
                    session = process.read_text().rpartition(")")[2].split()[3]
                    if session == str(shell.pid):
                        os.kill(int(process.parent.name), signal.SIGTERM)
    said = output.read_text()
    assert status == 0, said
    return said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the program of the page."""
    (tmp_path / "service.py").write_text(PYTHON)
    return tmp_path


def test_the_python_service_saves_a_table(hub_socket: Path, folder: Path) -> None:
    said = said_by(["python3 service.py"], folder, PAGEMERGE_AUTOSTART="1")
    assert said == PRINTS


@pytest.mark.requires("root")
def test_the_service_in_a_container_is_a_client_of_the_hosts_hub(folder: Path) -> None:
    """The image is the host's own files, below a layer that is thrown away."""
    for name in ("podman", "runc"):
        if not shutil.which(name):
            missing("podman", f"{name} is not installed")
    with tempfile.TemporaryDirectory(prefix="pagemerge-") as scratch:  # podman: 50 characters
        own = f"{PODMAN} --root {scratch}/storage --runroot {scratch}/run"
        host = f"--rootfs /:O {sys.executable}"
        probe = subprocess.run(
            [*own.split(), "run", "--rm", *LIMITS.split(), *host.split(), "-c", "pass"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if probe.returncode:
            missing("podman", f"it cannot start a container here: {probe.stderr.strip()[-200:]}")
        lines = [
            line.replace("/run/pagemerge", f"{scratch}/hub")
            .replace("podman run", f"{own} run {LIMITS}")
            .replace("IMAGE python3", host)
            for line in steps("A container")
        ]
        script = "\n".join(lines)
        assert f"-v {scratch}/hub:{scratch}/hub" in script and host in script
        lines.insert(1, f"until [ -S {scratch}/hub/hub.sock ]; do sleep 0.1; done")
        said = said_by(lines, folder, PAGEMERGE_AUTOSTART="0")
    assert f"\n{PRINTS}" in f"\n{said}", said


@pytest.mark.requires("kernel", "root")
def test_a_whole_host_is_merged_by_a_rule_and_separated_again(
    ksm: object, hub_socket: Path, tmp_path: Path
) -> None:
    """No hub runs; ksmd merges what the twins have in common."""
    said = said_by(steps("A whole host, by ksmd"), tmp_path)
    assert re.search(r"67\.\d MB +duplicates across processes", said), said
    saved = re.search(r"^Merging saves ([\d.]+) MB now, all of it by kernel KSM", said, re.M)
    assert saved and float(saved[1]) > 60, said
    separated = re.search(r"^ksmd leaves 2 processes alone: ([\d.]+) MB .* separated", said, re.M)
    assert separated and float(separated[1]) > 120, said
