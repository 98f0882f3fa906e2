"""A newcomer's first steps with virtual machines: the lines of the README, as they stand there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pagemerge.errors import HubError
from pagemerge.hub.reach import fetch_status
from pagemerge.model import PAGE_SIZE
from tests.conftest import missing
from tests.support.screens import screen

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
STEPS = [
    line.partition(" ")[2]
    for block in re.findall(r"^```console\n(.*?)^```$", README, re.S | re.M)
    if "guest.cpio" in block
    for line in block.splitlines()
]
QUESTIONS = re.findall(r"^\$ (pagemerge (?:status|scan --fit).*)$", TUTORIAL, re.M)[:2]
ANSWERS = [r"^Merging saves .* by the user engine", r"^user engine +[\d,]+ "]
PATIENCE = 120.0
SAVED = 40 << 20
"""Bytes that two kernels have in common at least."""


def test_the_guests_of_the_tutorial_are_those_of_the_readme() -> None:
    for step in STEPS:
        if not re.match(r"pip install|pagemerge top|kill|pagemerge scan", step):
            assert step in TUTORIAL, step
    assert [it.split()[1] for it in QUESTIONS] == ["status", "scan"]


@pytest.mark.requires("qemu", "uffd")
@pytest.mark.timeout(300)
def test_two_guests_are_merged_and_watched(hub_socket: Path, tmp_path: Path) -> None:
    install, tui, *make, scan, top, end = STEPS
    assert (install[:11], tui[:11], end) == ("apt install", "pip install", "kill $(jobs -p)")
    if not list(Path("/boot").glob("vmlinuz-*")) or not Path("/bin/busybox").exists():
        missing("qemu", "no kernel in /boot, or no busybox: see the README")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env.pop("PAGEMERGE_AUTOSTART", None)
    script = "\n".join(["set -e", *make, "wait"])
    shell = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=env, process_group=0)
    try:
        deadline = time.monotonic() + PATIENCE
        while saved(hub_socket) < SAVED:
            assert shell.poll() is None, "a line of the README has failed"
            assert time.monotonic() < deadline, "nothing is merged"
            time.sleep(0.2)
        told = subprocess.run(
            scan, shell=True, env=env, capture_output=True, text=True, check=True, timeout=60
        )
        assert told.stdout.startswith("Merging would save")
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
            told = subprocess.run(
                question,
                shell=True,
                env=env,
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
            assert re.search(answer, told.stdout, re.M), told.stdout
        words = top.partition("#")[0].split()[1:]
        with screen(*words, columns=120, lines=40, env=env) as shown:
            for name in ("ada", "ben", "Merging saves"):
                shown.wait_for(name)
            shown.press("q")
            assert shown.ended() == 0
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(PATIENCE)


def saved(hub: Path) -> int:
    try:
        status = fetch_status(hub)
    except HubError:
        return 0
    return (status.pages_sharing + status.zero_pages) * PAGE_SIZE if len(status.clients) > 1 else 0
