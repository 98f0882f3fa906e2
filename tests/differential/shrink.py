"""A failing program made as small as it goes: steps first, then their arguments."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.differential.program import Program, groups, smaller

Fails = Callable[[Program], bool]


class _Budget:
    """Tries and seconds that a shrinking may take."""

    def __init__(self, tries: int, seconds: float) -> None:
        self.tries, self.end = tries, time.monotonic() + seconds

    def left(self) -> bool:
        self.tries -= 1
        return self.tries >= 0 and time.monotonic() < self.end


def _joined(parts: list[list[str]]) -> Program:
    return tuple(line for part in parts for line in part)


def shrink(program: Program, fails: Fails, tries: int = 120, seconds: float = 25.0) -> Program:
    """A smaller program that fails still; the same one if there is none, or time is short."""
    budget = _Budget(tries, seconds)
    parts = groups(program)
    size = max(len(parts) // 2, 1)
    while True:  # delta debugging: halves, quarters, single steps
        at, dropped = 0, False
        while at < len(parts) and len(parts) > 1:
            kept = parts[:at] + parts[at + size :]
            if kept and budget.left() and fails(_joined(kept)):
                parts, dropped = kept, True
            else:
                at += size
        if size == 1 and not dropped:
            break
        size = max(size // 2, 1)
        if budget.tries < 0 or time.monotonic() > budget.end:
            break
    lines = list(_joined(parts))
    for at in range(len(lines) - 1, -1, -1):  # steps of children and handlers
        if lines[at].startswith(">") and budget.left():
            kept_lines = lines[:at] + lines[at + 1 :]
            if fails(tuple(kept_lines)):
                lines = kept_lines
    at = 0
    while at < len(lines):
        for line in smaller(lines[at]):
            tried = (*lines[:at], line, *lines[at + 1 :])
            if budget.left() and fails(tried):
                lines = list(tried)
                break
        else:
            at += 1
    return tuple(lines)
