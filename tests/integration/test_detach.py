"""``pagemerge detach`` of much that is merged: few stops, short ones, told of, ended at any moment.

The victims note for how long they did not come to do anything, and check their own memory.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagemerge import _core
from pagemerge.find.eligible import eligible
from pagemerge.linux.ksm import ksm_bytes, process_ksm
from tests.support import ksm
from tests.support.attaching import build, start, until_state

pytestmark = pytest.mark.requires("kernel", "cc")

LARGE = 51_200 * 4096
"""Bytes that the victim has in one mapping."""
PIECES = 20_000
"""Pages that it has in a mapping each."""
DETACH = (sys.executable, "-m", "pagemerge", "detach", "--json")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("beats", tmp_path_factory.mktemp("victims"))


@pytest.fixture
def kernel() -> Iterator[ksm.Ksm]:
    with ksm.borrowed() as borrowed:
        yield borrowed


@pytest.fixture
def large(kernel: ksm.Ksm, program: Path) -> Iterator[subprocess.Popen[str]]:
    yield from merged(kernel, program, "whole", LARGE)


@pytest.fixture
def pieces(kernel: ksm.Ksm, program: Path) -> Iterator[subprocess.Popen[str]]:
    yield from merged(kernel, program, "pieces", PIECES * 4096)


def merged(kernel: ksm.Ksm, program: Path, kind: str, size: int) -> Iterator[subprocess.Popen[str]]:
    """A victim of which ksmd has merged all, and stands now."""
    victim = start(program, kind)
    try:
        kernel.start(**ksm.FLAT_OUT)
        deadline = time.monotonic() + 60
        while (now := process_ksm(victim.pid).merging_pages or 0) * 4096 < size:
            assert time.monotonic() < deadline, f"{now} pages are merged"
            time.sleep(0.02)
        kernel.write("run", 0)
        yield victim
    finally:
        victim.kill()
        victim.communicate()


def detached(pid: int) -> tuple[dict[str, Any], list[str]]:
    """What detach says of a process, and the lines of its progress."""
    done = subprocess.run(
        [*DETACH, str(pid)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["processes"]
    assert not row["error"] and not row["refused_ranges"] and not row["still_mergeable"]
    assert process_ksm(pid).mergeable is not True
    return row, done.stderr.splitlines()


def unharmed(victim: subprocess.Popen[str]) -> int:
    """See that a victim is as it should be, and end it; microseconds of its longest gap."""
    said, _ = victim.communicate("", timeout=60)
    assert victim.returncode == 0
    found = json.loads(said)
    assert found["wrong"] == 0
    assert found["handled"] > 0
    return int(found["gap_us"])


def test_the_program_goes_on_meanwhile(large: subprocess.Popen[str]) -> None:
    row, lines = detached(large.pid)
    assert row["separated_bytes"] >= LARGE
    assert ksm_bytes(large.pid) in (0, None)
    assert row["stops"] > 2, "it runs in between"
    assert 0 < row["longest_hold_seconds"] < 0.5
    assert row["longest_hold_seconds"] < row["held_seconds"] < row["seconds"]
    assert all(re.fullmatch(r"separating: .* of .*", line) for line in lines)
    done, _, total = lines[-1].removeprefix("separating: ").partition(" of ")
    assert done == total
    assert unharmed(large) < 1_000_000


def test_many_small_mappings_are_no_many_calls(pieces: subprocess.Popen[str]) -> None:
    """Though there are holes between them."""
    row, _ = detached(pieces.pid)
    assert row["separated_bytes"] >= PIECES * 4096
    assert row["ranges"] < PIECES / 50
    assert row["stops"] < PIECES / 100
    assert unharmed(pieces) < 1_000_000


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ended_in_the_middle_it_leaves_the_process_as_it_was(
    how: signal.Signals, large: subprocess.Popen[str]
) -> None:
    blocked = status(large.pid, "SigBlk")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*DETACH, str(large.pid)], stdout=pipe, stderr=pipe, text=True
    ) as command:
        assert command.stderr is not None
        assert command.stderr.readline().startswith("separating: ")
        # Where the host is slow, the first stops are about small mappings before the large one.
        deadline = time.monotonic() + 30
        while ksm_bytes(large.pid) == LARGE:
            assert time.monotonic() < deadline, "none of it is separated"
            time.sleep(0.001)
        command.send_signal(how)
        command.communicate(timeout=60)
        assert command.returncode in (-how, 128 + how)
    # A process of its own brings the stop to its end.
    deadline = time.monotonic() + 30
    while status(large.pid, "TracerPid") != "0":
        assert time.monotonic() < deadline, "it is traced still"
        time.sleep(0.001)
    until_state(large.pid, "RS")
    assert status(large.pid, "SigBlk") == blocked
    assert process_ksm(large.pid).mergeable is not False, "it was not done"
    row, _ = detached(large.pid)
    assert 0 < row["separated_bytes"] < LARGE, "the rest"
    assert unharmed(large) < 1_000_000


def test_who_is_told_may_end_it(large: subprocess.Popen[str]) -> None:
    ranges = [(start, end) for start, end in eligible(large.pid) if end - start >= LARGE]
    starts, ends = (array("Q", it) for it in zip(*ranges, strict=True))
    heard = []

    def tell(count: int) -> None:
        heard.append(count)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _core.inject_separate(large.pid, starts, ends, True, tell)
    assert len(heard) == 1 and heard[0] > 0
    assert 0 < (ksm_bytes(large.pid) or 1) < LARGE
    with pytest.raises(ValueError, match="order of address"):
        _core.inject_separate(large.pid, ends, starts, True, tell)
    assert unharmed(large) < 1_000_000


def status(pid: int, field: str) -> str:
    """A line of proc_pid_status(5)."""
    found = re.search(rf"^{field}:\s*(\S+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return found[1]
