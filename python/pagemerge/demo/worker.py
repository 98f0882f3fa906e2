"""A worker of the demo: ``python -m pagemerge.demo.worker PARENT``.

It loads real files and private data into mergeable memory, keeps writing a part of it, and can
tell at any time whether every page is what it should be. It answers JSON lines (``dialog``).
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

import pagemerge
from pagemerge.demo.content import Bytes, Piece, load
from pagemerge.demo.dialog import Answer, die_with_parent, serve
from pagemerge.demo.writer import Writer
from pagemerge.errors import PagemergeError
from pagemerge.model import PAGE_SIZE

DIGEST = 16
"""Bytes kept of each page to check it by."""

PRESENT, NOT_ANONYMOUS = np.uint64(1 << 63), np.uint64(1 << 61)
"""Bits of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst): a page of a slab is a
page of a file, a page of one's own is anonymous."""


class Worker:
    """The memory of one worker; each public method answers one question of the demo."""

    def open(self, loaded: int, private: int, hot: int) -> Answer:
        """Allocate that many bytes for real data, private data and the writer."""
        self.loaded, self.private = mergeable(loaded), mergeable(private)
        self.hot = mergeable(hot)
        areas = (self.loaded, self.private, self.hot)
        return {"areas": [[area.ctypes.data, len(area) // PAGE_SIZE] for area in areas]}

    def load(self, pieces: list[tuple[str, int]]) -> Answer:
        """Fill the memory, note what every page must be, and start the writer."""
        load((Piece(path, size) for path, size in pieces), self.loaded)
        for start in range(0, len(self.private), 1 << 20):
            part = self.private[start : start + (1 << 20)]
            part[:] = np.random.default_rng().integers(0, 256, len(part), np.uint8)
        self.noted = self._digests()
        self.writer = Writer(self.hot.view(np.uint64).reshape(-1, PAGE_SIZE // 8))
        self.writer.start()
        return {"bytes": len(self.loaded)}

    def turn(self, turns: int) -> Answer:
        """Wait until the writer has written every page of its own again."""
        if not self.writer.wait(turns, patience=30.0):
            raise PagemergeError("the writer thread does not get on")
        return {"turns": self.writer.turns}

    def intern(self) -> Answer:
        """Merge the real data in place; nobody writes to it meanwhile, as the contract asks."""
        pagemerge.intern(self.loaded)
        return {}

    def cpu(self) -> Answer:
        """Processor time of this process less the writer's, in seconds: what merging costs."""
        return {"seconds": time.process_time() - self.writer.cpu_seconds}

    def check(self) -> Answer:
        """How many pages are not what was noted, and how many writes were lost."""
        writes, lost = self.writer.check()
        changed = np.flatnonzero((self._digests() != self.noted).any(axis=1))
        return {"changed": len(changed), "writes": writes, "lost": lost}

    def write(self, pages: int) -> Answer:
        """Write to ``pages`` shared pages; tells how many, and how many are now its own.

        Their new content is noted, so that a later ``check`` finds this write, and no other.
        """
        shared = np.flatnonzero(mapped_from_slab(self.loaded))
        chosen = shared[:: max(1, len(shared) // pages)][:pages]
        memory = self.loaded.reshape(-1, PAGE_SIZE)
        wanted = memory[chosen] ^ np.uint8(0xFF)
        for index in chosen:
            memory[index] ^= np.uint8(0xFF)
        own = np.count_nonzero(~mapped_from_slab(self.loaded)[chosen])
        self.noted[chosen] = digests(wanted.reshape(-1))
        return {"written": len(chosen), "own": int(own)}

    def _digests(self) -> Bytes:
        return np.concatenate([digests(self.loaded), digests(self.private)])


def mergeable(nbytes: int) -> Bytes:
    """``nbytes`` of mergeable memory as a uint8 array."""
    return np.frombuffer(memoryview(pagemerge.buffer(nbytes)), np.uint8)


def digests(memory: Bytes) -> Bytes:
    """A digest of each page: uint8 of shape (pages, ``DIGEST``). Not the one merging goes by."""
    pages = memory.reshape(-1, PAGE_SIZE)
    text = b"".join(hashlib.blake2b(page.data, digest_size=DIGEST).digest() for page in pages)
    return np.frombuffer(text, np.uint8).reshape(-1, DIGEST).copy()


def mapped_from_slab(memory: Bytes) -> npt.NDArray[np.bool_]:
    """Whether each page of ``memory`` is, by the kernel's page table, a page of a slab."""
    first, pages = memory.ctypes.data // PAGE_SIZE, len(memory) // PAGE_SIZE
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(first * 8)
        entries = np.frombuffer(pagemap.read(pages * 8), np.uint64)
    both = PRESENT | NOT_ANONYMOUS
    found: npt.NDArray[np.bool_] = (entries & both) == both
    return found


def main() -> None:
    """Answer until the demo closes the pipe; ends with it in any case."""
    die_with_parent(int(sys.argv[1]))
    worker = Worker()
    verbs = ("open", "load", "turn", "intern", "cpu", "check", "write")
    serve({verb: getattr(worker, verb) for verb in verbs})


if __name__ == "__main__":
    main()
