"""``pagemerge demo`` as a user runs it, under every barrier; and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagemerge.model import PAGE_SIZE

PROMISED = """workers page_size engine barrier before_bytes after_bytes saved_bytes
    expected_saved_bytes merge_seconds cpu_seconds pages_shared pages_sharing zero_pages
    contents_verified separated_after_write"""
SMALL = ("--workers", "3", "--size", "32")


def demo(*arguments: str) -> dict[str, Any]:
    """Run a small demo to its end; its figures. Fails with what it said if it failed."""
    argv = [sys.executable, "-m", "pagemerge", "demo", "--json", *SMALL, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}\n{done.stdout}"
    assert not done.stderr, "progress is for terminals"
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def judge(figures: dict[str, Any]) -> None:
    """What must hold whichever way it went."""
    assert set(PROMISED.split()) <= set(figures)
    assert (figures["workers"], figures["page_size"]) == (3, PAGE_SIZE)
    assert figures["saved_bytes"] == figures["before_bytes"] - figures["after_bytes"]
    # Three workers have the same data: at least two copies of it can go.
    assert figures["expected_saved_bytes"] >= 2 * figures["loaded_bytes"]
    assert figures["saved_bytes"] >= 0.95 * figures["expected_saved_bytes"]
    assert figures["pages_sharing"] > figures["pages_shared"] > 0
    assert figures["writes"] > 0
    assert figures["lost_writes"] == figures["changed_pages"] == 0
    assert figures["contents_verified"] is True
    assert figures["separated_after_write"] is True


def test_auto_takes_what_the_host_allows() -> None:
    judge(demo())


def test_the_environment_names_a_barrier_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEMERGE_BARRIER", "park")
    assert demo()["barrier"] == "park"
    monkeypatch.setenv("PAGEMERGE_BARRIER", "nonsense")
    with pytest.raises(AssertionError, match=r'(?s)exit status 2.*no barrier is called "nonsense"'):
        demo()


@pytest.mark.parametrize(
    "barrier",
    [
        pytest.param("move", marks=pytest.mark.requires("uffd")),
        pytest.param("write-protect", marks=pytest.mark.requires("uffd")),
        "park",
        "intern",
    ],
)
def test_each_barrier(barrier: str) -> None:
    figures = demo("--barrier", barrier)
    assert figures["barrier"] == barrier
    judge(figures)


AS_NOBODY = """
import os, sys
from pagemerge import _core, cli
import pagemerge.cli.demo, pagemerge.demo.play, pagemerge.cli.show.demo
os.setgroups([])
os.setresuid(65534, 65534, 65534)
sys.exit(cli.main(["demo", "--barrier", "move"]))
"""


@pytest.mark.requires("root")
def test_no_other_barrier_is_played_than_the_one_asked_for() -> None:
    argv = [sys.executable, "-c", AS_NOBODY]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 77, done.stderr
    assert "does not allow that barrier" in done.stderr and "without --barrier" in done.stderr
    assert done.stdout == ""


def test_the_smallest_demo_works_and_its_headline_comes_first() -> None:
    argv = [sys.executable, "-m", "pagemerge", "demo", "--workers", "2", "--size", "4"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Merging saved ")


@pytest.mark.parametrize(
    ("option", "given", "least"),
    [
        ("--workers", "0", "at least 2 processes"),
        ("--workers", "1", "at least 2 processes"),
        ("--workers", "some", "at least 2 processes"),
        ("--size", "3", "at least 4 MB"),
    ],
)
def test_too_small_says_how_large(option: str, given: str, least: str) -> None:
    argv = [sys.executable, "-m", "pagemerge", "demo", option, given]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert least in done.stderr


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo makes its temporary files; short, for the path of a socket."""
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        yield Path(name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_when_it_is_ended(number: signal.Signals, folder: Path) -> None:
    argv = [sys.executable, "-m", "pagemerge", "demo", "--size", "64"]
    env = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        argv,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=hear_interrupts,
    ) as run:
        until(lambda: len(children(run.pid)) == 5)  # the hub and four workers
        started = children(run.pid)
        run.send_signal(number)
        _, said = run.communicate(timeout=30)
    expected = {signal.SIGINT: 130, signal.SIGTERM: 128 + signal.SIGTERM}
    assert run.returncode == expected.get(number, -number)
    assert b"Traceback" not in said
    until(lambda: not any(alive(pid) for pid in started))
    if number != signal.SIGKILL:  # nobody can tidy up after that one
        assert not list(folder.iterdir())


def test_a_hub_that_is_killed_is_reported(folder: Path) -> None:
    argv = [sys.executable, "-m", "pagemerge", "demo", "--size", "64"]
    env = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        until(lambda: len(children(run.pid)) == 5)
        started = children(run.pid)
        (hub,) = (pid for pid in started if b"demo.hub" in command(pid))
        os.kill(hub, signal.SIGKILL)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert said.startswith(b"pagemerge demo: ")
    assert b"Traceback" not in said
    until(lambda: not any(alive(pid) for pid in started))
    assert not list(folder.iterdir())


def hear_interrupts() -> None:
    """Who is started in the background of a shell ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def until(done: Callable[[], bool], patience: float = 30.0) -> None:
    """Look again until ``done`` or the deadline; the other side cannot tell us."""
    deadline = time.monotonic() + patience
    while not done():
        assert time.monotonic() < deadline, "deadline passed"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The child processes of ``pid``, whichever of its threads started them."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def command(pid: int) -> bytes:
    """The command line of ``pid``."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def alive(pid: int) -> bool:
    """Whether ``pid`` is a process that runs; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
