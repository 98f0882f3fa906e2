"""A program with blocks of 2 MiB, of each of which a part is the same in every such program.

It maps and marks its memory as QEMU does it for a guest, by libc's calls: MADV_MERGEABLE, then
advice about huge pages (``huge``, ``small``, or none). It knows nothing of pagemerge.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from pagemerge.demo.dialog import Answer, serve

PAGE, BLOCK = 4096, 512
WORDS = PAGE // 8
ADVICE = {"huge": mmap.MADV_HUGEPAGE, "small": mmap.MADV_NOHUGEPAGE}
FIELDS = {"AnonHugePages:": "anonymous", "ShmemPmdMapped:": "slabs"}


class Blocks:
    """The memory, and the number of which each page is made; 0: a page of zeros."""

    def fill(self, common: list[int], zeros: list[int], advice: str) -> Answer:
        """Have a block for each element: its pages in common with others, and its zero pages."""
        # One block more than needed, so that the memory can start at a multiple of 2 MiB.
        size = (len(common) + 1) * BLOCK * PAGE
        self.room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.room.madvise(mmap.MADV_MERGEABLE)
        if advice in ADVICE:
            self.room.madvise(ADVICE[advice])
        words = np.frombuffer(memoryview(self.room), np.uint64)
        skip = -words.ctypes.data % (BLOCK * PAGE) // 8
        self.memory = words[skip : skip + len(common) * BLOCK * WORDS].reshape(-1, WORDS)
        self.base = self.memory.ctypes.data
        number = np.arange(1, len(self.memory) + 1, dtype=np.uint64)
        place = np.tile(np.arange(BLOCK), len(common))
        own = place >= np.repeat(common, BLOCK)
        number[own] += np.uint64(os.getpid()) << np.uint64(32)
        number[place >= BLOCK - np.repeat(zeros, BLOCK)] = 0
        self.number = number
        self.memory[:] = number[:, None]
        return {"base": self.base}

    def write(self, first: int, pages: int) -> Answer:
        """Give some pages contents of their own."""
        part = slice(first, first + pages)
        self.number[part] = np.arange(pages, dtype=np.uint64) + np.uint64(os.getpid() << 33)
        self.memory[part] = self.number[part][:, None]
        return {}

    def equal(self, first: int, pages: int) -> Answer:
        """Give some pages the contents that they have in every such program that is told so."""
        part = slice(first, first + pages)
        self.number[part] = np.arange(first, first + pages, dtype=np.uint64) + np.uint64(1 << 31)
        self.memory[part] = self.number[part][:, None]
        return {}

    def check(self) -> Answer:
        """How many pages are not what they must be. Reads all of them."""
        return {"wrong": int((self.memory != self.number[:, None]).any(axis=1).sum())}

    def huge(self) -> Answer:
        """Blocks that are huge pages, by the kernel's account, and mappings (proc_pid_smaps(5))."""
        found, mappings, inside = dict.fromkeys(FIELDS.values(), 0), 0, False
        for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
            first, *rest = line.split()
            if "-" in first and not first.endswith(":"):
                start, end = (int(it, 16) for it in first.split("-"))
                inside = start < self.base + self.memory.nbytes and end > self.base
                mappings += inside
            elif inside and first in FIELDS:
                found[FIELDS[first]] += int(rest[0]) * 1024 // (BLOCK * PAGE)
        return {**found, "mappings": mappings}


def main() -> None:
    blocks = Blocks()
    serve({verb: getattr(blocks, verb) for verb in ("fill", "write", "equal", "check", "huge")})


if __name__ == "__main__":
    main()
