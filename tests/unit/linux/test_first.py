"""The first process of a PID namespace waits for processes of others, and passes on signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing

NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c"]
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from pagemerge.linux.first import work_in_child

def zombies():
    stats = [it.read_text() for it in Path("/proc").glob("[0-9]*/stat")]
    return sum(it.rpartition(")")[2].split()[0] == "Z" for it in stats)

def work():
    for _ in range(20):  # each leaves a child behind, which is the first process's from then on
        pid = os.fork()
        if pid == 0:
            if os.fork():
                os._exit(0)
            os.setpgid(0, 0)
            while os.getppid() != 1:
                time.sleep(0.001)
            os._exit(0)
        os.waitpid(pid, 0)
    deadline = time.monotonic() + 10
    while len(list(Path("/proc").glob("[0-9]*"))) > 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    print(os.getpid() != 1, os.environ["LISTEN_PID"] == str(os.getpid()), zombies(), flush=True)
    THEN

assert os.getpid() == 1
os.environ["LISTEN_PID"] = "1"
sys.exit(work_in_child(work, "test-first"))
"""


@pytest.fixture(autouse=True)
def namespaces() -> None:
    probe = subprocess.run([*NAMESPACE, ""], capture_output=True, text=True, check=False)
    if probe.returncode:
        missing("namespaces", f"no namespaces can be made here: {probe.stderr.strip()}")


@pytest.mark.requires("root")
@pytest.mark.parametrize(
    ("then", "status"),
    [("return 7", 7), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL)],
)
def test_no_zombie_stays_and_the_status_is_that_of_the_work(then: str, status: int) -> None:
    argv = [*NAMESPACE, PROGRAM.replace("THEN", then)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("True True 0\n", status), done.stderr


@pytest.mark.requires("root")
def test_a_signal_reaches_the_work() -> None:
    argv = [*NAMESPACE, PROGRAM.replace("THEN", "time.sleep(60)")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout and outer.stdout.readline() == "True True 0\n"
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        (inner,) = map(int, children)
        subprocess.run(["kill", "-TERM", str(inner)], check=True)
        assert outer.wait(20) == 128 + signal.SIGTERM
