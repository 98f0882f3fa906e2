"""A worker of the demo: ``python -m pagemerge.demo.worker PARENT``.

The worker loads real files and private data into mergeable memory, keeps writing a part of it, and
can check at any time that every page has the right contents. It answers JSON lines (``dialog``).
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
"""Bytes of the digest that the worker keeps of each page."""

PRESENT, NOT_ANONYMOUS = np.uint64(1 << 63), np.uint64(1 << 61)
"""Bits of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst): a page of a slab is a page
of a file, the worker's own pages are anonymous."""


class Worker:
    """The memory of one worker; each public method answers one question of the demo."""

    def open(self, loaded: int, private: int, hot: int) -> Answer:
        """Allocate memory for real data, private data and the writer; all sizes in bytes."""
        self.loaded, self.private = mergeable(loaded), mergeable(private)
        self.hot = mergeable(hot)
        areas = (self.loaded, self.private, self.hot)
        return {"areas": [[area.ctypes.data, len(area) // PAGE_SIZE] for area in areas]}

    def load(self, pieces: list[tuple[str, int]]) -> Answer:
        """Fill the memory, note a digest of every page, and start the writer."""
        load((Piece(path, size) for path, size in pieces), self.loaded)
        for start in range(0, len(self.private), 1 << 20):
            part = self.private[start : start + (1 << 20)]
            part[:] = np.random.default_rng().integers(0, 256, len(part), np.uint8)
        self.noted = self._digests()
        self.writer = Writer(self.hot.view(np.uint64).reshape(-1, PAGE_SIZE // 8))
        self.writer.start()
        return {"bytes": len(self.loaded)}

    def turn(self, turns: int) -> Answer:
        """Wait until the writer has written each of its pages ``turns`` more times."""
        if not self.writer.wait(turns, patience=30.0):
            raise PagemergeError("the writer thread makes no progress")
        return {"turns": self.writer.turns}

    def intern(self) -> Answer:
        """Merge the real data in place; no thread writes it during the call, as intern requires."""
        pagemerge.intern(self.loaded)
        return {}

    def cpu(self) -> Answer:
        """Read the processor time of this process without the writer's, in seconds: what merging
        costs."""
        return {"seconds": time.process_time() - self.writer.cpu_seconds}

    def check(self) -> Answer:
        """Count the pages that differ from the noted digests, and the lost writes."""
        writes, lost = self.writer.check()
        changed = np.flatnonzero((self._digests() != self.noted).any(axis=1))
        return {"changed": len(changed), "writes": writes, "lost": lost}

    def write(self, pages: int) -> Answer:
        """Write to ``pages`` shared pages; returns how many, and how many of them are now private.

        The worker notes the new content, so that a later ``check`` finds any other change.
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
    """Allocate ``nbytes`` of mergeable memory as a uint8 array."""
    return np.frombuffer(memoryview(pagemerge.buffer(nbytes)), np.uint8)


def digests(memory: Bytes) -> Bytes:
    """Compute a digest of each page: uint8 of shape (pages, ``DIGEST``).

    It is not the digest that merging uses.
    """
    pages = memory.reshape(-1, PAGE_SIZE)
    text = b"".join(hashlib.blake2b(page.data, digest_size=DIGEST).digest() for page in pages)
    return np.frombuffer(text, np.uint8).reshape(-1, DIGEST).copy()


def mapped_from_slab(memory: Bytes) -> npt.NDArray[np.bool_]:
    """Find the pages of ``memory`` that are pages of a slab by the kernel's page table."""
    first, pages = memory.ctypes.data // PAGE_SIZE, len(memory) // PAGE_SIZE
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(first * 8)
        entries = np.frombuffer(pagemap.read(pages * 8), np.uint64)
    both = PRESENT | NOT_ANONYMOUS
    found: npt.NDArray[np.bool_] = (entries & both) == both
    return found


def main() -> None:
    """Answer until the demo closes the pipe; the process ends when the demo ends."""
    die_with_parent(int(sys.argv[1]))
    worker = Worker()
    verbs = ("open", "load", "turn", "intern", "cpu", "check", "write")
    serve({verb: getattr(worker, verb) for verb in verbs})


if __name__ == "__main__":
    main()
