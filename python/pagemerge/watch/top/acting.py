"""Attaches and detaches a process: who may, and the command that does it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from pagemerge.errors import PagemergeError
from pagemerge.linux import process
from pagemerge.linux.text import decoded, plain
from pagemerge.watch.top.lines import Line

PATIENCE = 120.0
"""Seconds until the view waits for the command no longer."""

MOST = 300
"""Characters of the command's answer that are shown."""


class Answer(NamedTuple):
    """What came of a command."""

    good: bool
    text: str
    """Printable."""


def refusal(verb: str, line: Line | None, recorded: bool) -> str:
    """Say why ``verb`` (attach or detach) cannot be done here; empty if it can be tried."""
    if recorded:
        return f"This is a recording, so there is no process to {verb}."
    if os.geteuid() != 0:
        return f"{verb} needs root, because it stops the process: run `sudo pagemerge top`."
    if verb == "attach":
        return ""  # any process can be attached; the dialog asks for its pid
    if line is None:
        return "No process is selected."
    if line.pid is None:
        return f"{line.name} has {len(line.rows)} processes: press g to list them, and select one."
    if line.rows[0].engine == "user":
        return (
            f"Process {line.pid} is a client of the hub, and detach is for kernel KSM: its memory "
            "is merged until the program ends."
        )
    return ""


def started(pid: int) -> int | None:
    """Return the clock ticks at which a process started, which tell it from a later one with the
    same pid; None if there is no such process."""
    with contextlib.suppress(PagemergeError):
        return process.stat(pid).start_time
    return None


def command(verb: str, pid: int) -> list[str]:
    """Return the command that attaches or detaches a process.

    -P keeps Python from importing modules out of the current directory, which may be anybody's.
    """
    return [sys.executable, "-P", "-m", "pagemerge", verb, str(pid)]


def carry_out(verb: str, pid: int, start: int | None, patience: float = PATIENCE) -> Answer:
    """Attach or detach the process that started at ``start``, and return what came of it."""
    if start is None or started(pid) != start:
        return Answer(False, f"There is no process {pid} any more.")
    try:
        # In a session of its own, because whatever ends the terminal must not end the command while
        # it holds a process.
        child = subprocess.Popen(
            command(verb, pid),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return Answer(False, f"{verb} {pid} could not be started: {error.strerror}")
    try:
        out, errors = child.communicate(timeout=patience)
    except subprocess.TimeoutExpired:  # it may hold the process, so it is not killed
        return Answer(False, f"{verb} {pid} has not ended after {patience:.0f} s; it goes on.")
    good = child.returncode == 0
    said = _first((out, errors) if good else (errors, out))
    return Answer(good, said or f"{verb} {pid} ended with {child.returncode}.")


def _first(outputs: Sequence[bytes]) -> str:
    """Return the first line of the first output that has one."""
    for output in outputs:
        for line in output.split(b"\n"):
            if line.strip():
                return plain(decoded(line.strip()), MOST)
    return ""
