"""Which page frames a process maps: the kernel's own word on who shares with whom. Needs root."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pagemerge.demo.dialog import Child
from pagemerge.model import PAGE_SIZE

PRESENT, NUMBER = np.uint64(1 << 63), np.uint64((1 << 55) - 1)


def frames(member: Child) -> set[int]:
    """The page frame numbers of a member's memory, after it has looked at every byte of it.

    Pages that the kernel is moving just now have none (proc(5), pagemap).
    """
    code = "int(member.memory.sum()); answer = [member.memory.ctypes.data, len(member.memory)]"
    base, pages = member.ask("call", code=f"{code}; answer = dict(at=answer)")["at"]
    with Path(f"/proc/{member.pid}/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(base // PAGE_SIZE * 8)
        entries = np.frombuffer(pagemap.read(pages * 8), np.uint64)
    found = set((entries[entries & PRESENT != 0] & NUMBER).tolist())
    assert 0 not in found, "frame numbers are for root's eyes only"
    return found
