"""Which page frames a process maps: the kernel's own word on who shares with whom. Needs root.

Sources: Documentation/admin-guide/mm/pagemap.rst of Linux (pagemap, kpageflags).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pagemerge.demo.dialog import Child
from pagemerge.model import PAGE_SIZE

PRESENT, NUMBER = np.uint64(1 << 63), np.uint64((1 << 55) - 1)

KSM, ZERO_PAGE = 1 << 21, 1 << 24
"""Flags of a frame: a stable page of kernel KSM, the kernel's page of zeros."""


def frames(member: Child) -> set[int]:
    """The page frame numbers of a member's memory, after it has looked at every byte of it.

    Pages that the kernel is moving just now have none (proc(5), pagemap).
    """
    code = "int(member.memory.sum()); answer = [member.memory.ctypes.data, len(member.memory)]"
    base, pages = member.ask("call", code=f"{code}; answer = dict(at=answer)")["at"]
    found = frames_at(member.pid, base, pages)
    return set(found[found != 0].tolist())


def frames_at(pid: int, base: int, pages: int) -> npt.NDArray[np.uint64]:
    """The page frame number of each page, u64[pages]; 0 for a page that is not present."""
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(base // PAGE_SIZE * 8)
        entries = np.frombuffer(pagemap.read(pages * 8), np.uint64)
    present = entries & PRESENT != 0
    found = np.where(present, entries & NUMBER, np.uint64(0))
    assert (found[present] != 0).all(), "frame numbers are for root's eyes only"
    return found


def flags_of(frame: int) -> int:
    """The flags of a page frame."""
    with Path("/proc/kpageflags").open("rb", buffering=0) as flags:
        flags.seek(frame * 8)
        return int.from_bytes(flags.read(8), "little")
