"""A process with memory to merge: ``python worker.py PARENT``; answers JSON lines.

Contents are made from page numbers: page ``n`` is the same 4 KiB in every process, and unlike any
other. The same contents serve the user engine (a buffer of pagemerge's) and the kernel's (private
memory with madvise(MADV_MERGEABLE)).
"""

from __future__ import annotations

import mmap
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

import pagemerge
from pagemerge.demo.dialog import Answer, die_with_parent, serve
from pagemerge.model import PAGE_SIZE

WORDS = PAGE_SIZE // 8
BLOCK = 512
"""Pages in which shared and own ones alternate, where a part is unique."""

U64 = npt.NDArray[np.uint64]


class Worker:
    """Each public method answers one question."""

    def open(self, engine: str, scene: str, index: int, pages: int) -> Answer:
        """Allocate ``pages`` pages for a scene; this is the ``index``-th of its processes. The
        answer has their address."""
        self.engine, self.numbers = engine, SCENES[scene](pages, index)
        if engine == "user":
            memory = memoryview(pagemerge.buffer(pages * PAGE_SIZE))
        else:
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self.mapping = mmap.mmap(-1, pages * PAGE_SIZE, flags=private)
            memory = memoryview(self.mapping)
        self.memory = np.frombuffer(memory, np.uint64).reshape(-1, WORDS)
        return {"pages": pages, "base": self.memory.ctypes.data}

    def fill(self) -> Answer:
        """Fill the pages as the scene says."""
        for part in parts(len(self.numbers)):
            self.memory[part] = content(self.numbers[part])
        if self.engine == "kernel":
            self.mapping.madvise(mmap.MADV_MERGEABLE)
        return {}

    def rewrite(self, pages: int, roaming: bool, every: float) -> Answer:
        """Go on writing ``pages`` pages each ``every`` seconds; ``rest`` ends it.

        They get the contents of other pages, so that what is written is equal to what others hold
        at once: always the same pages, or, ``roaming``, others each time.
        """
        chance = np.random.default_rng(1)
        self.enough = threading.Event()

        def write() -> None:
            which = chance.permutation(len(self.numbers))[:pages]
            while not self.enough.wait(every):
                if roaming:
                    which = chance.permutation(len(self.numbers))[:pages]
                self.numbers[which] = chance.integers(0, 4, pages)
                self.memory[which] = content(self.numbers[which])

        self.writer = threading.Thread(target=write, daemon=True)
        self.writer.start()
        return {}

    def rest(self) -> Answer:
        """Write no more."""
        self.enough.set()
        self.writer.join()
        return {}

    def check(self) -> Answer:
        """How many pages are not what they were made to be."""
        wrong = 0
        for part in parts(len(self.numbers)):
            wrong += int((self.memory[part] != content(self.numbers[part])).any(axis=1).sum())
        return {"wrong": wrong}

    def touch(self, verb: str, first: int, count: int) -> Answer:
        """Nanoseconds that it takes to read, or to write, a word of each of some pages."""
        words, spent, clock = self.memory[:, 0], np.empty(count, np.int64), time.perf_counter_ns
        same = words[0]
        read, write = words.item, words.__setitem__
        for page in range(first, first + count):
            if verb == "read":
                began = clock()
                read(page)
                spent[page - first] = clock() - began
            else:
                began = clock()
                write(page, same)
                spent[page - first] = clock() - began
        return {"median": int(np.median(spent)), "mean": round(float(spent.mean()), 1)}


def content(numbers: U64, into: U64 | None = None) -> U64:
    """The pages of those numbers: u64[n, 512]; ``into``: where to make them, without a copy."""
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    words = np.arange(WORDS, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
    made: U64 = np.bitwise_xor(mixed[:, None], words[None, :], out=into)
    return made


def clones(pages: int, index: int) -> U64:
    """Everybody has the same pages in the same order: long runs."""
    return np.arange(pages, dtype=np.uint64)


def scattered(pages: int, index: int) -> U64:
    """Everybody has the same pages, each in an order of its own: no two pages form a run."""
    return np.random.default_rng(index).permutation(pages).astype(np.uint64)


def gaps(pages: int, index: int) -> U64:
    """Every second page is the same in every process, at the same place; the others are unique."""
    numbers = np.arange(pages, dtype=np.uint64)
    numbers[1::2] += np.uint64(index + 1) << np.uint64(32)
    return numbers


def unique70(pages: int, index: int) -> U64:
    """Of each 2 MiB, 30% are the same in every process, and the rest is unique."""
    return _partly(pages, index, "unique70")


def unique40(pages: int, index: int) -> U64:
    """Of each 2 MiB, 60% are the same in every process, and the rest is unique."""
    return _partly(pages, index, "unique40")


def _partly(pages: int, index: int, scene: str) -> U64:
    numbers = np.arange(pages, dtype=np.uint64)
    own = numbers % BLOCK >= shared_pages(BLOCK, scene)
    numbers[own] += np.uint64(index + 1) << np.uint64(32)
    return numbers


def standing(pages: int, index: int) -> U64:
    """Of each 8 MiB, half is the same in every process of both kinds, a quarter in every one of
    this kind, and a quarter is unique."""
    return _quarters(pages, index, 1)


def shortlived(pages: int, index: int) -> U64:
    """As ``standing``, of the other kind."""
    return _quarters(pages, index, 2)


def _quarters(pages: int, index: int, kind: int) -> U64:
    numbers = np.arange(pages, dtype=np.uint64)
    quarter = numbers // BLOCK % 4
    numbers[quarter == 2] += np.uint64(kind) << np.uint64(48)
    numbers[quarter == 3] += np.uint64(index + 1) << np.uint64(32)
    return numbers


def shared_pages(pages: int, scene: str = "unique70") -> int:
    """How many of ``pages``, whole blocks, everybody has."""
    quarters = pages // 4 * 3
    return {
        "unique70": pages // BLOCK * (BLOCK * 3 // 10),
        "unique40": pages // BLOCK * (BLOCK * 6 // 10),
        "gaps": pages // 2,
        "standing": quarters,
        "shortlived": quarters,
    }.get(scene, pages)


SCENES: dict[str, Callable[[int, int], U64]] = {
    "clones": clones,
    "scattered": scattered,
    "gaps": gaps,
    "unique70": unique70,
    "unique40": unique40,
    "standing": standing,
    "shortlived": shortlived,
}


def parts(pages: int, each: int = 4096) -> list[slice]:
    """Slices of at most ``each`` pages that make up ``pages``."""
    edges = [*range(0, pages, each), pages]
    return [slice(first, end) for first, end in pairwise(edges)]


def main() -> None:
    """Answer until the pipe is closed; ends with the benchmark in any case."""
    die_with_parent(int(sys.argv[1]))
    worker = Worker()
    verbs = ("open", "fill", "rewrite", "rest", "check", "touch")
    serve({verb: getattr(worker, verb) for verb in verbs})


if __name__ == "__main__":
    main()
