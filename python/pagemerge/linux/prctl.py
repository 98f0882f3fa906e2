"""Kernel KSM for a whole program: a switch of the process that fork and exec inherit.

Source: PR_SET_MEMORY_MERGE(2const), and ``ksm_enable_merge_any`` in mm/ksm.c of Linux (6.4).
"""

from __future__ import annotations

import ctypes
import errno
import os

from pagemerge.errors import Unsupported

_SET_MEMORY_MERGE, _GET_MEMORY_MERGE = 67, 68


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
