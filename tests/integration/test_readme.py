"""The Python examples of the README run as they stand, print what it says, and leave nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", README.read_text(), re.S | re.M
)
NUMBER = re.compile(r"[\d.,]*\d")
PATIENCE = 40.0
"""Seconds until the hub that an example has started must have ended."""


def using(socket: Path) -> list[int]:
    """Processes that name this socket in their command line or environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "environ"):
            try:
                named = os.fsencode(socket) in (folder / file).read_bytes()
            except OSError:  # it has ended, or belongs to another user
                continue
            if named:
                found.append(int(folder.name))
                break
    return found


def test_every_python_block_is_followed_by_what_it_prints() -> None:
    assert len(EXAMPLES) == README.read_text().count("```python\n") > 0


@pytest.mark.parametrize(("code", "promised"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_prints_what_the_readme_says(
    code: str, promised: str, hub_socket: Path, tmp_path: Path
) -> None:
    script = tmp_path / "example.py"
    script.write_text(code)
    env = {**os.environ, "PAGEMERGE_AUTOSTART": "1", "TMPDIR": str(tmp_path)}
    argv = [sys.executable, script.name]
    done = subprocess.run(
        argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert NUMBER.sub("N", done.stdout) == NUMBER.sub("N", promised)
    (saved,) = re.findall(r"^saved: (\d+) MB", done.stdout, re.M)
    (wanted,) = re.findall(r"^saved: (\d+) MB", promised, re.M)
    assert int(saved) == pytest.approx(int(wanted), rel=0.05)

    deadline = time.monotonic() + PATIENCE
    while hub_socket.exists() or using(hub_socket):
        assert time.monotonic() < deadline, f"these still run: {using(hub_socket)}"
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == [script]
