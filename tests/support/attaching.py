"""Victims in C that are attached: started, watched from outside, and asked what they counted."""

from __future__ import annotations

import json
import mmap
import subprocess
import time
from pathlib import Path
from typing import Any

from pagemerge import _core
from tests.support.building import compile_victim

PATIENCE = 30.0


class Victim:
    """A victim that goes on until it is told to stop, through a byte that it shares with us."""

    def __init__(self, program: Path, kind: str, folder: Path) -> None:
        shared = folder / f"{program.name}-{kind}-{time.monotonic_ns()}"
        shared.write_bytes(b"\0")
        with shared.open("r+b") as file:
            self._stop = mmap.mmap(file.fileno(), 1)
        self.process = start(program, kind, str(shared))
        self.pid = self.process.pid

    def finish(self) -> dict[str, int]:
        """End it; what it counted."""
        self._stop[0] = 1
        said, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, self.process.returncode
        counted: dict[str, int] = json.loads(said)
        return counted

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def start(*argv: object, **options: Any) -> subprocess.Popen[str]:
    """A process of ours that has said "ready"."""
    pipe = subprocess.PIPE
    words = [str(word) for word in argv]
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, **options)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def build(name: str, folder: Path) -> Path:
    """The victim of that name, compiled."""
    return compile_victim(f"{name}.c", folder / name, "-pthread")


def rounds(pid: int, count: int) -> float:
    """Attach and detach ``count`` times; the longest time that it was held, in seconds.

    The kernel says each time what was so before: it is the oracle that each took effect.
    """
    longest = 0.0
    for _ in range(count):
        for on in (True, False):
            before, held = _core.inject_prctl(pid, on)
            assert before is not on
            longest = max(longest, held)
    return longest


def state(pid: int) -> str:
    """As ps(1) shows it: R, S, D, T, t, Z."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until_state(pid: int, wanted: str) -> None:
    """Wait until the process is in one of these states."""
    deadline = time.monotonic() + PATIENCE
    while (now := state(pid)) not in wanted:
        assert time.monotonic() < deadline, f"process {pid} is {now}, not {wanted}"
        time.sleep(0.001)


def until_it_goes_on(pid: int) -> None:
    """Wait until the process has run for a while: ten time slices, or a millisecond."""

    def ran() -> tuple[int, int]:
        """Nanoseconds, and slices, of all its threads (/proc/PID/task/TID/schedstat)."""
        rows = [it.read_text().split() for it in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(row[0]) for row in rows), sum(int(row[2]) for row in rows)

    deadline, (time_before, slices_before) = time.monotonic() + PATIENCE, ran()
    while True:
        spent, slices = ran()
        if spent - time_before >= 10**6 or slices - slices_before >= 10:
            return
        assert time.monotonic() < deadline, f"process {pid} does not go on"
        time.sleep(0.001)


def merge_any(pid: int) -> bool:
    """What the kernel says of the whole process (proc(5), ksm_stat)."""
    return "ksm_merge_any: yes" in Path(f"/proc/{pid}/ksm_stat").read_text()


def marked(pid: int) -> set[tuple[int, int]]:
    """Start and end of the mappings that have the flag of mergeable memory (smaps, ``mg``)."""
    found, extent = set(), (0, 0)
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            start, end = words[0].split("-")
            extent = int(start, 16), int(end, 16)
        elif words[0] == "VmFlags:" and "mg" in words:
            found.add(extent)
    return found
