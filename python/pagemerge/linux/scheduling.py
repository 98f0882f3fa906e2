"""How the kernel schedules our threads beside those of other programs, and how long threads wait.

Sources: sched(7), ``kernel/sched/psi.c`` and Documentation/accounting/psi.rst of Linux.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from pagemerge import _core
from pagemerge.errors import NoSuchProcess, PagemergeError
from pagemerge.linux.process import PROC
from pagemerge.linux.text import lines
from pagemerge.linux.values import contents

NICER = 5
"""The niceness that threads which give way have more: that of ksmd (mm/ksm.c)."""


def give_way(gives_way: bool = True) -> bool:
    """Have the threads of this process give way to those of others, or end that. Threads that are
    started later inherit it.

    They take the processor from no other thread when they wake up (SCHED_BATCH), give it up as soon
    as another one wakes up that is owed processor time (a longer slice, Linux 6.12), and owe others
    more for what they use (``NICER``). Under SCHED_IDLE, a thread that holds a lock of another
    program, such as that of its memory, could get no processor for a second, and the program would
    wait.

    Returns false where the kernel refuses some of it: niceness cannot be lowered again without
    CAP_SYS_NICE, and seccomp may forbid all of it.
    """
    policy = os.SCHED_BATCH if gives_way else os.SCHED_OTHER
    niceness = _niceness() + NICER * gives_way
    done = True
    for entry in Path("/proc/self/task").iterdir():
        thread = int(entry.name)
        try:
            if os.sched_getscheduler(thread) not in (os.SCHED_BATCH, os.SCHED_OTHER):
                continue  # the administrator has chosen another one
            os.sched_setscheduler(thread, policy, os.sched_param(0))
            _core.lengthen_slice(thread, gives_way)
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
        except (ProcessLookupError, NoSuchProcess):
            pass  # it has ended
        except (PermissionError, PagemergeError):
            done = False
    return done


@cache
def _niceness() -> int:
    """The niceness of this process before it gave way for the first time."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def stalled_seconds(*, proc: Path = PROC) -> float | None:
    """Read how long so far some thread of the host has waited for a processor, in seconds.

    It is the field total of the line "some" in ``/proc/pressure/cpu``, exact to the microsecond
    when it is read (``psi_show``); ``None`` without PSI. While several threads wait at once, the
    time counts once.
    """
    for line in lines(contents(proc / "pressure" / "cpu") or b""):
        if found := re.fullmatch(rb"some [ -~]{0,100} total=([0-9]{1,19})", line):
            return int(found[1]) / 1e6
    return None
