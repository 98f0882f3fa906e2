"""Starts threads, and says why if none can be started."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pagemerge.errors import PagemergeError

LIMITS = (
    "a limit of processes and threads is reached (TasksMax= of the unit, pids.max of a cgroup, "
    "RLIMIT_NPROC), or memory is short"
)
"""Why fork(2) and clone(2) fail with EAGAIN or ENOMEM."""


def start(work: Callable[[], object], name: str) -> threading.Thread:
    """Start a thread that does not keep this process from ending.

    Raises ``PagemergeError`` if the kernel lets no other thread start.
    """
    thread = threading.Thread(target=work, daemon=True, name=name)
    try:
        thread.start()
    except RuntimeError:  # "can't start new thread"; Python does not tell the error of the kernel
        raise PagemergeError(f"no thread can be started: {LIMITS}") from None
    return thread
