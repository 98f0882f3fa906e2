"""What the first process of a PID namespace, as in a container, has to do beside its work.

The kernel makes it the parent of every process in the namespace whose own parent has ended, and
such a process stays as a zombie until its parent waits for it (pid_namespaces(7), wait(2)). The
parts of a program wait for processes of their own only. So the work is done in a child, and the
first process does nothing but wait, and pass on signals.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from pagemerge.errors import PagemergeError
from pagemerge.linux.forked import Forked
from pagemerge.linux.threads import LIMITS

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that the first process hands on. Others do nothing to it, unless the kernel or a process
outside the namespace sends them."""

ADDRESSED = ("LISTEN_PID", "WATCHDOG_PID")
"""Variables that say for which process others are meant (sd_listen_fds(3), sd_watchdog_enabled(3)).
"""


def work_in_child(work: Callable[[], int], comm: str) -> int:
    """Do some work in a child; wait for it, and for all processes that become ours meanwhile.

    ``comm``: the name of the child, up to 15 bytes. Returns the status that the work returns, or
    128 and the number of the signal that has ended it, as a shell does. Raises ``PagemergeError``
    if no process can be started.
    """
    child: Forked | None = None
    early: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        if child is None:
            early.append(number)
        else:
            child.send(number)

    def work_for_us() -> int:
        for name in ADDRESSED:
            if os.environ.get(name) == str(os.getppid()):
                os.environ[name] = str(os.getpid())
        return work()

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        kept = {int(it) for it in os.listdir("/proc/self/fd")}  # noqa: PTH208
        try:
            child = Forked(work_for_us, comm, kept)
        except OSError as error:
            raise PagemergeError(f"no process can be started: {error.strerror}: {LIMITS}") from None
        for number in early:
            child.send(number)
        while True:  # until the child ends, which is one of those that we wait for
            pid, status = os.waitpid(-1, 0)
            if pid == child.pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
