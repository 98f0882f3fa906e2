"""A process whose file system never answers keeps nobody waiting who looks at it, whatever it does.

The reads wait in the kernel, and not even SIGKILL ends them: see ``victims/turning.c``.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pagemerge.linux.ksm import Ksm
from tests.conftest import missing
from tests.support import ksm as lab
from tests.support.building import compile_victim
from tests.support.commands import PAGEMERGE
from tests.support.hubs import ALONE

SCRIPT = Path(__file__).parent.parent / "victims" / "turning.py"
PATIENCE = 40.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``turning``, compiled; its name makes `doctor` look at its arguments."""
    return compile_victim("turning.c", tmp_path_factory.mktemp("turning") / "python-turning")


def words_for(program: Path, how: str, *command: str) -> list[str]:
    """Run a command beside the process; its status is 124 if it waits."""
    return [sys.executable, str(SCRIPT), str(program), how, str(PATIENCE), *command]


def beside(program: Path, how: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command beside the process to its end."""
    argv = words_for(program, how, *command)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
    if "no such file here" in done.stdout:
        missing("mounts", done.stdout.strip())
    return done


COMMANDS: dict[str, tuple[list[str], int | None]] = {
    "scan": (["scan", "--all", "--what", "--why", "--group-by", "guest"], 0),
    "sample": (["scan", "--all", "--sample"], 0),
    "name": (["scan", "python-turning"], 1),
    "attach": (["attach", "{pid}"], 1),
    "detach": (["detach", "--dry-run", "{pid}"], 1),
    "doctor": (["doctor"], 0),
    "status": (["status"], None),
}
"""Words, and the exit status if it is known."""
# Each case waits for seconds, and what the commands do differs by the files that they read first.
CASES = [
    *(("lock", it) for it in ("scan", "sample", "name", "doctor", "status")),
    *(("exec", it) for it in ("scan", "status")),
]
OF_ONE = [("lock", "attach"), ("lock", "detach"), ("exec", "attach")]
"""These look at their own process only, so they can wait together."""


def is_not_kept_waiting(program: Path, how: str, name: str) -> None:
    """Run a command beside the process: it ends, and says why it left the process alone."""
    words, status = COMMANDS[name]
    done = beside(program, how, *PAGEMERGE, *words)
    assert done.returncode != 124, done.stderr
    if status is not None:
        assert done.returncode == status, done.stderr
    if words[0] not in ("doctor", "status"):
        assert "may use a file system that does not answer" in done.stdout + done.stderr


@pytest.mark.parametrize(("how", "name"), CASES)
def test_a_process_whose_files_in_proc_keep_everybody_waiting(
    program: Path, how: str, name: str
) -> None:
    """By the lock of its memory, which most files need, or inside an exec that never ends."""
    is_not_kept_waiting(program, how, name)


def test_a_process_whose_files_keep_waiting_who_looks_at_it_alone(program: Path) -> None:
    with ThreadPoolExecutor(len(OF_ONE)) as threads:
        for done in [threads.submit(is_not_kept_waiting, program, *it) for it in OF_ONE]:
            done.result()


LOOKS = """
import os, sys, time
from pagemerge.find.process import named
from pagemerge.find.survey import survey
end = time.monotonic() + 10
while time.monotonic() < end:
    mine, other = survey(named([sys.argv[1], str(os.getppid())])).rows
    assert other.pages and not other.error, other
    if mine.error:
        print(mine.error)
        break
"""


def test_memory_that_turns_into_such_a_file_while_it_is_read(program: Path) -> None:
    """It happens at one look in thirty; both ends are right if it did not."""
    done = beside(program, "turn", sys.executable, "-c", LOOKS, "{pid}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" or "did not let us look" in done.stdout


@pytest.mark.requires("kernel")
@pytest.mark.parametrize("how", ["lock", "exec", "turn"])
def test_the_governor_goes_on(program: Path, how: str, tmp_path: Path) -> None:
    """It sees others, and ends when it is told to."""
    config, log = tmp_path / "rules.toml", tmp_path / "log"
    config.write_text('[[rule]]\nopt = "in"\ncommand = "*python-turning *"\n' + ALONE)
    daemon = [*PAGEMERGE, "daemon", "--engine", "kernel", "--verbose", "--config", str(config)]
    argv = words_for(program, how, "sh", "-c", "echo up; exec sleep 9")
    with lab.borrowed():
        before = Ksm().knobs()
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout
            # Not earlier: our reader would stop the process before it is as it wants to be.
            if (line := other.stdout.readline()) != "up\n":
                missing("mounts", line.strip())
            with log.open("w") as file, subprocess.Popen(daemon, stderr=file) as running:
                other.wait(PATIENCE)
                running.send_signal(signal.SIGTERM)
                assert running.wait(PATIENCE) == 0, log.read_text()
        assert Ksm().knobs() == before
    said = log.read_text()
    assert ("did not let us look" if how != "turn" else "(python-turning) is in") in said
