"""The lines of docs/tutorial.md, as they stand there."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ksm as lab

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
CONSOLE = re.findall(r"^```console\n(.*?)^```$", PAGE, re.S | re.M)
(TWINS,) = [it for it in CONSOLE if "twin.py" in it]
((PYTHON, PRINTS),) = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", PAGE, re.S | re.M)


@pytest.fixture
def ksmd() -> Iterator[None]:
    with lab.borrowed():
        yield


def test_the_python_service_saves_a_table(hub_socket: Path, tmp_path: Path) -> None:
    script = tmp_path / "service.py"
    script.write_text(PYTHON)
    env = {**os.environ, "PAGEMERGE_AUTOSTART": "1"}
    argv = [sys.executable, str(script)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, PRINTS, "")


@pytest.mark.requires("kernel", "root")
def test_programs_that_run_already_are_merged_and_separated(
    ksmd: None, hub_socket: Path, tmp_path: Path
) -> None:
    """No hub runs; ksmd merges what the twins have in common."""
    lines = [line.removeprefix("$ ").removeprefix("# ") for line in TWINS.splitlines()]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (tmp_path / "said").open("w+") as file:
        shell = subprocess.Popen(
            ["bash", "-c", "\n".join(["set -e", *lines])],
            cwd=tmp_path,
            env=env,
            stdout=file,
            stderr=file,
            process_group=0,
        )
        try:
            assert shell.wait(100) == 0, (tmp_path / "said").read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)
    said = (tmp_path / "said").read_text()
    assert re.search(r"67\.\d MB +duplicates across processes", said), said
    saved = re.search(r"^Merging saves ([\d.]+) MB now, all of it by kernel KSM", said, re.M)
    assert saved and float(saved[1]) > 60, said
    assert re.search(r"separated .* in 2 processes|2 processes", said), said
