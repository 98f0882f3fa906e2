"""One program, run to its end or its deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pagemerge.linux import text
from tests.selftests.compare import Report, parse

GRACE = 10.0
"""Seconds that a killed program may take to go."""

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")

KNOBS = (
    "/proc/sys/vm/nr_hugepages",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/compact_unevictable_allowed",
    "/proc/sys/kernel/shmmax",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/transparent_hugepage/defrag",
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    "/sys/kernel/mm/transparent_hugepage/use_zero_page",
    "/sys/kernel/mm/transparent_hugepage/khugepaged/defrag",
    "/sys/kernel/tracing/tracing_on",
    *map(str, sorted(HUGE_PAGES.glob("hugepages-*/enabled"))),
    *map(str, sorted(HUGE_PAGES.glob("hugepages-*/shmem_enabled"))),
)
"""Settings of the host that a program may leave changed, above all when it is killed."""


@dataclass(frozen=True, slots=True)
class Run:
    """How one run ended."""

    report: Report
    output: bytes
    seconds: float
    hung_in: str
    """Of a program that hung: where the kernel had each of its threads; else empty."""


class Knobs:
    """Remembers the host's settings, and puts back those that a program changed."""

    def __init__(self, paths: Sequence[str] = KNOBS) -> None:
        self._found = {path: value for path in paths if (value := _setting(path)) is not None}

    def restore(self) -> list[str]:
        """Put back; the paths of those that had been changed."""
        changed = [path for path, value in self._found.items() if _setting(path) != value]
        for path in changed:
            Path(path).write_text(self._found[path])
        return changed


def _setting(path: str) -> str | None:
    """The value of a setting, of several words the one in brackets; None if there is none."""
    try:
        value = text.plain(text.read(path).strip())
    except OSError:
        return None
    chosen = [word[1:-1] for word in value.split() if word.startswith("[")]
    return chosen[0] if chosen else value


def run(argv: Sequence[str], env: Mapping[str, str], folder: Path, deadline: float) -> Run:
    """Run ``argv`` in ``folder``; after ``deadline`` seconds it and its group are killed.

    Its input is empty; what it and its children print goes to a file, which nobody waits for.
    """
    started = time.monotonic()
    with (folder / "output").open("wb") as file:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    hung_in = ""
    try:
        status = _status(process.wait(deadline))
    except subprocess.TimeoutExpired:
        status, hung_in = "hung", where(process.pid)
    finally:
        _kill(process)
    output = (folder / "output").read_bytes()
    return Run(Report(status, parse(output)), output, time.monotonic() - started, hung_in)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the program and what is left of its group, which is ours alone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(GRACE)


def _status(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def where(pid: int) -> str:
    """Where the kernel has each thread of a process: ``name: function``, by thread."""
    found = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        try:
            name, function = text.read(task / "comm"), text.read(task / "wchan")
        except OSError:
            continue
        found.append(f"{text.plain(name.strip())}: {text.plain(function.strip())}")
    return ", ".join(found)
