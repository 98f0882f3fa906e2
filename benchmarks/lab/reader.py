"""A process that reads its memory at random: ``python reader.py PARENT LIBRARY``.

It answers JSON lines. ``LIBRARY`` is ``reads.c``, compiled. The memory is mapped and, if that is
wanted, marked as QEMU does it for a guest: MADV_MERGEABLE, then MADV_HUGEPAGE.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

from lab.worker import BLOCK, U64, WORDS, content, parts, unique70
from pagemerge.demo.dialog import Answer, die_with_parent, serve
from pagemerge.model import PAGE_SIZE

SHARED = 0.295
"""Share of the blocks of 2 MiB that are the same in every process, in the scene ``blocks``."""
SCATTERED = 4
"""Pages of each other block that are the same in every process: not worth its huge page."""


class Taken(ctypes.Structure):
    """struct taken of reads.c."""

    _fields_ = (
        ("nanoseconds", ctypes.c_double),
        ("misses", ctypes.c_double),
        ("sum", ctypes.c_uint64),
    )


def blocks(pages: int, index: int) -> U64:
    """Most of what is shared lies in blocks of 2 MiB that are the same from end to end."""
    numbers = np.arange(pages, dtype=np.uint64)
    block, place = numbers // np.uint64(BLOCK), numbers % np.uint64(BLOCK)
    chance = np.random.default_rng(1)
    whole = chance.permutation(pages // BLOCK) < round(SHARED * (pages // BLOCK))
    few = (place + block * np.uint64(37)) % np.uint64(BLOCK // SCATTERED) == 0
    own = ~(whole[block.astype(np.int64)] | few)
    numbers[own] += np.uint64(index + 1) << np.uint64(32)
    return numbers


SCENES = {"blocks": blocks, "pages": unique70}


class Reader:
    """Each public method answers one question."""

    def __init__(self, library: str) -> None:
        self.reads = ctypes.CDLL(library).reads

    def fill(self, scene: str, index: int, pages: int, *, huge: bool, marked: bool) -> Answer:
        """Map ``pages`` pages and fill them; ``huge``: ask for huge pages, or else decline them;
        ``marked``: as mergeable."""
        self.numbers = SCENES[scene](pages, index)
        self.mapping = mmap.mmap(-1, pages * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if marked:
            self.mapping.madvise(mmap.MADV_MERGEABLE)
        self.mapping.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        self.memory = np.frombuffer(memoryview(self.mapping), np.uint64).reshape(-1, WORDS)
        for part in parts(pages):
            self.memory[part] = content(self.numbers[part])
        return {"shared": int(np.count_nonzero(self.numbers < 1 << 32))}

    def read(self, count: int, *, chained: bool) -> Answer:
        """Read ``count`` random words; what a read took."""
        taken = Taken()
        self.reads(
            ctypes.c_void_p(self.memory.ctypes.data),
            ctypes.c_uint64(self.memory.size),
            ctypes.c_uint64(count),
            ctypes.c_int(chained),
            ctypes.byref(taken),
        )
        return {"nanoseconds": taken.nanoseconds, "misses": taken.misses}

    def check(self) -> Answer:
        """How many pages are not what they were made to be."""
        wrong = 0
        for part in parts(len(self.numbers)):
            wrong += int((self.memory[part] != content(self.numbers[part])).any(axis=1).sum())
        return {"wrong": wrong}


def main() -> None:
    """Answer until the pipe is closed; ends with the benchmark in any case."""
    die_with_parent(int(sys.argv[1]))
    reader = Reader(sys.argv[2])
    serve({verb: getattr(reader, verb) for verb in ("fill", "read", "check")})


if __name__ == "__main__":
    main()
