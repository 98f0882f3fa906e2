"""Which process the kernel ends first when memory is out: oom_score_adj of proc(5).

The kernel adds thousandths of all memory (of the cgroup's limit, if that is out) to what a process
has, and ends the process with the highest sum.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pagemerge.linux.process import PROC
from pagemerge.linux.values import number_in

LATE = -500
"""A process with this adjustment is ended after all others that have not more than half of all
memory, and is ended itself if it takes more than that."""


def last_to_end(adjustment: int = LATE, *, proc: Path = PROC) -> int | None:
    """Have the kernel end this process after others; returns its adjustment now, None if unknown.

    Never raises the adjustment. Lowering it takes CAP_SYS_RESOURCE. Without, the lowest allowed
    value is what a process with that capability wrote last, usually 0: that is tried, too.
    """
    file = proc / "self" / "oom_score_adj"
    for wanted in (adjustment, 0):
        now = number_in(file)
        if now is None or now <= wanted:
            break
        with suppress(OSError):
            file.write_text(str(wanted))
    return number_in(file)


def as_others(*, proc: Path = PROC) -> None:
    """Give up ``last_to_end``: the kernel may end this process before those that serve others."""
    file = proc / "self" / "oom_score_adj"
    now = number_in(file)
    if now is not None and now < 0:
        with suppress(OSError):
            file.write_text("0")
