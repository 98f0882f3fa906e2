"""Switches of this process that prctl(2) has: kernel KSM, its end with its parent, its name.

Sources: PR_SET_PDEATHSIG(2const), PR_SET_NAME(2const), PR_SET_MEMORY_MERGE(2const), and
``ksm_enable_merge_any`` in mm/ksm.c of Linux (6.4).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

from pagemerge.errors import Unsupported

_SET_PDEATHSIG, _SET_NAME = 1, 15
_SET_MEMORY_MERGE, _GET_MEMORY_MERGE = 67, 68


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> bool:
    """Have the kernel send this process a signal when process ``parent`` ends, however that
    happens; false if it has ended already.

    The kernel takes the thread that forked as the parent, so the caller must start children from a
    thread that does not end. It forgets the switch when this process changes its user. A stopped
    process sees no signal but SIGKILL.
    """
    _prctl(_SET_PDEATHSIG, int(number))
    return os.getppid() == parent


def set_name(name: str) -> None:
    """Set the name of this thread, comm; the kernel keeps 15 bytes of it."""
    text = ctypes.create_string_buffer(name.encode())
    _prctl(_SET_NAME, ctypes.addressof(text))


def merge_any() -> bool | None:
    """May ksmd merge all memory of this process? None if this kernel cannot tell."""
    answer = _prctl(_GET_MEMORY_MERGE, 0)
    return None if answer < 0 else bool(answer)


def set_merge_any(on: bool) -> None:
    """Let ksmd merge all memory of this process and of processes that it starts, or undo that.

    Needs no privilege. Raises ``Unsupported`` with the reason and the cure if the kernel refuses.
    """
    if _prctl(_SET_MEMORY_MERGE, int(on)) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EINVAL:
        raise Unsupported(
            "this kernel cannot merge the memory of whole programs: prctl(PR_SET_MEMORY_MERGE) "
            "needs Linux 6.4 with CONFIG_KSM; the user engine needs neither"
        )
    raise Unsupported(
        f"prctl(PR_SET_MEMORY_MERGE): {os.strerror(number)}: a seccomp filter may forbid it, as in "
        "a container; allow prctl there, or use the user engine"
    )


def why_not() -> str | None:
    """Say why ``set_merge_any`` would fail, and the cure, or None; changes nothing."""
    try:
        set_merge_any(merge_any() or False)  # to its current value
    except Unsupported as lack:
        return str(lack)
    return None


def _prctl(option: int, value: int) -> int:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # prctl is variadic in C: each argument has to be passed as a whole word.
    words = (ctypes.c_ulong(word) for word in (value, 0, 0, 0))
    return int(prctl(ctypes.c_int(option), *words))
