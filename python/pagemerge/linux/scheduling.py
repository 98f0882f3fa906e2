"""How the kernel schedules our threads beside those of other programs, and how long threads wait.

Sources: sched(7), ``kernel/sched/psi.c`` and Documentation/accounting/psi.rst of Linux.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from pagemerge.linux.process import PROC
from pagemerge.linux.text import lines
from pagemerge.linux.values import contents


def give_way(gives_way: bool = True) -> bool:
    """Have the threads of this process take the processor from no other thread when they wake up
    (SCHED_BATCH), or have them do so again (SCHED_OTHER). Threads that are started later inherit
    it.

    Their share of the processor stays the same. Under SCHED_IDLE it would not: a thread that holds
    a lock of another program, such as that of its memory, could get no processor for a second, and
    the program would wait. Returns false where the kernel refuses.
    """
    policy = os.SCHED_BATCH if gives_way else os.SCHED_OTHER
    done = True
    for entry in Path("/proc/self/task").iterdir():
        thread = int(entry.name)
        with contextlib.suppress(ProcessLookupError):  # it has ended
            if os.sched_getscheduler(thread) not in (os.SCHED_BATCH, os.SCHED_OTHER):
                continue  # the administrator has chosen another one
            try:
                os.sched_setscheduler(thread, policy, os.sched_param(0))
            except PermissionError:  # seccomp
                done = False
    return done


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
