"""Hands the daemon's descriptors to the engines that it starts, and ends them with it.

The protocol of sd_listen_fds(3) does not fit here: it wants the pid of the new process in the
environment before that process exists, and fixed numbers of descriptors. So one variable names the
daemon and the descriptors: ``PID NAME=NUMBER ...``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping

VARIABLE = "PAGEMERGE_SUPERVISED"

_PR_SET_PDEATHSIG = 1


def offered(descriptors: Mapping[str, int]) -> str:
    """Return the value of the variable that hands these descriptors over: name -> descriptor."""
    return " ".join([str(os.getpid()), *(f"{name}={it}" for name, it in descriptors.items())])


def taken(environment: MutableMapping[str, str] = os.environ) -> dict[str, int] | None:
    """Return the descriptors that the daemon passes to this engine: name -> descriptor.

    None if no daemon started this process. Otherwise the kernel sends this process SIGTERM when the
    daemon ends, however that happens (PR_SET_PDEATHSIG, prctl(2)); if the daemon has ended already,
    this process exits. Removes the variable, and marks the descriptors to be closed by execve(2).
    """
    text = environment.pop(VARIABLE, "")
    pid, *pairs = text.split() or [""]
    if not pid.isdecimal():
        return None
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(pid):
        sys.exit(1)
    found = {name: int(number) for name, _, number in (pair.partition("=") for pair in pairs)}
    for number in found.values():
        os.set_inheritable(number, False)
    return found
