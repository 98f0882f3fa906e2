"""Kernel KSM for a whole program: a switch of the process that holds over fork and exec.

Source: PR_SET_MEMORY_MERGE(2const), and ``ksm_enable_merge_any`` in mm/ksm.c of Linux (6.4).
"""

from __future__ import annotations

import ctypes
import errno
import os

from pagemerge.errors import Unsupported

_SET_MEMORY_MERGE, _GET_MEMORY_MERGE = 67, 68


def merge_any() -> bool | None:
    """May ksmd merge all memory of this process? None where this kernel cannot tell."""
    answer = _prctl(_GET_MEMORY_MERGE, 0)
    return None if answer < 0 else bool(answer)


def set_merge_any(on: bool) -> None:
    """Let ksmd merge all memory of this process and of what it starts, or undo that.

    Raises ``Unsupported`` if the kernel will not, with the reason and the cure; needs no privilege.
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
        f"prctl(PR_SET_MEMORY_MERGE): {os.strerror(number)}: a seccomp filter forbids it, as in a "
        "container? allow prctl there, or use the user engine"
    )


def why_not() -> str | None:
    """Why ``set_merge_any`` would be refused, and the cure, or None; changes nothing."""
    try:
        set_merge_any(merge_any() or False)  # to what it is
    except Unsupported as lack:
        return str(lack)
    return None


def _prctl(option: int, value: int) -> int:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # Variadic in C: what is passed as a word has to be one.
    words = (ctypes.c_ulong(word) for word in (value, 0, 0, 0))
    return int(prctl(ctypes.c_int(option), *words))
