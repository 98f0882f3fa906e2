"""A process that loads data, rewrites some, changes some: ``python tenant.py PARENT``.

It opts in to kernel KSM by itself, with all its memory (prctl(2), PR_SET_MEMORY_MERGE). Of its
pages, 40% are a data set that all tenants load, 50% its own, and 10% zero, each in one long run.
What it does to them takes the time that it is told, however busy the host is. Contents are made
from page numbers, so that it can check every byte at any time.
"""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Iterator

import numpy as np

# By path, as a script, it has no package.
from worker import U64, WORDS, content, parts  # type: ignore[import-not-found]

from pagemerge.demo.dialog import Answer, die_with_parent, serve
from pagemerge.linux.prctl import set_merge_any
from pagemerge.model import PAGE_SIZE

SHARED, ZERO = 0.4, 0.1
"""Shares of its memory; the rest is its own."""
CHANGED = 0.5
"""Share of the common data that ``change`` replaces."""
REWRITTEN = 0.1
"""Share of its memory, of its own, that ``rewrite`` writes again and again."""
ROUND = 1.0
"""Seconds that one round of it takes."""
PART = 256
"""Pages written at a time. What contents are made in is freed memory of ours, mergeable as all of
it: it must stay small beside the data."""

NOTHING = np.uint64(2**64 - 1)
"""The number of a page of zeros."""
OWNER, DATASET, VERSION = 32, 40, 48
"""Where a page's number says whose it is, of which data set, and how often it was rewritten."""


class Tenant:
    """Each public method answers one question, most with the ``seconds`` that it took."""

    def open(self, index: int, pages: int) -> Answer:
        """Opt in, and allocate ``pages`` pages; this is the ``index``-th tenant."""
        set_merge_any(True)
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        mapping = mmap.mmap(-1, pages * PAGE_SIZE, flags=private)
        self.memory = np.frombuffer(memoryview(mapping), np.uint64).reshape(-1, WORDS)
        self.numbers = np.arange(pages, dtype=np.uint64)
        self.shared, self.zero = int(SHARED * pages), pages - int(ZERO * pages)
        self.numbers[self.shared : self.zero] |= np.uint64((index + 1) << OWNER)
        self.numbers[self.zero :] = NOTHING
        self.version = 0
        return {"pages": pages}

    def load(self, seconds: float) -> Answer:
        """Fill all of its memory."""
        began = time.monotonic()
        for part in _paced(0, len(self.numbers), seconds):
            self._write(part)
        return _took(began)

    def rewrite(self, seconds: float) -> Answer:
        """Rewrite a part of its own data for so long, each time with other contents."""
        began = time.monotonic()
        first, end = self.shared, self.shared + int(REWRITTEN * len(self.numbers))
        own = self.numbers[first:end] & np.uint64((1 << VERSION) - 1)
        while (left := began + seconds - time.monotonic()) > 0:
            self.version += 1
            for part in _paced(first, end, min(ROUND, left)):
                version = np.uint64(self.version << VERSION)
                self.numbers[part] = own[part.start - first : part.stop - first] | version
                self._write(part)
        return _took(began)

    def change(self, seconds: float) -> Answer:
        """Replace a part of the common data by other data, the same for all tenants."""
        began = time.monotonic()
        for part in _paced(0, int(CHANGED * self.shared), seconds):
            self.numbers[part] += np.uint64(1 << DATASET)
            self._write(part)
        return _took(began)

    def check(self) -> Answer:
        """How many pages are not what they were made to be."""
        began, wrong = time.monotonic(), 0
        for part in parts(len(self.numbers), PART):
            right = _made(self.numbers[part])
            wrong += int((self.memory[part] != right).any(axis=1).sum())
        return {"wrong": wrong, **_took(began)}

    def _write(self, part: slice) -> None:
        self.memory[part] = _made(self.numbers[part])


def _made(numbers: U64) -> U64:
    made = content(numbers)
    made[numbers == NOTHING] = 0
    return made


def _paced(first: int, end: int, seconds: float) -> Iterator[slice]:
    """The pages from ``first`` to ``end`` in parts, spread over ``seconds``."""
    began, count = time.monotonic(), end - first
    for part in parts(count, PART):
        time.sleep(max(0.0, began + seconds * part.start / count - time.monotonic()))
        yield slice(first + part.start, first + part.stop)
    time.sleep(max(0.0, began + seconds - time.monotonic()))


def _took(began: float) -> Answer:
    return {"seconds": round(time.monotonic() - began, 3)}


def main() -> None:
    """Answer until the pipe is closed; ends with the benchmark in any case."""
    die_with_parent(int(sys.argv[1]))
    tenant = Tenant()
    verbs = ("open", "load", "rewrite", "change", "check")
    serve({verb: getattr(tenant, verb) for verb in verbs})


if __name__ == "__main__":
    main()
