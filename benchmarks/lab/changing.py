"""A worker of ``frontier.py``: half of its memory is the same in all; some of it may change.

From its first page on, its memory consists of: a fifth that all processes have, and that stays;
three tenths that all have, and that ``change`` replaces by other data that all have; three tenths
of its own, which stay; and a fifth of its own, which ``change`` rewrites all the time.
"""

from __future__ import annotations

import mmap
import sys
import threading
import time

import numpy as np

from pagemerge.demo.dialog import Answer, die_with_parent, serve

from .worker import Worker, content, parts

SHARED = 0.5
"""Part of the memory that all processes have."""
STAYS = 0.2
"""Part that all have and that ``change`` leaves as it is."""
REWRITTEN = 0.2
"""Part that ``change`` rewrites."""
ROUND, STEPS = 1.0, 20
"""Seconds in which each page of that part is rewritten once, and the steps in which it happens."""
PART = 256
"""Pages written at a time. They are made where they belong: memory beside the data would count as
memory of the group."""
OWNER, VERSION = 32, 40
"""Where the number of a page says whose it is, and how often it was replaced."""


class Changing(Worker):
    """Each public method answers one question."""

    def allocate(self, engine: str, index: int, pages: int) -> Answer:
        """Allocate ``pages`` pages; this is the ``index``-th process."""
        self.open(engine, "clones", index, pages)
        self.shared = int(SHARED * pages)
        self.numbers[self.shared :] |= np.uint64((index + 1) << OWNER)
        self.enough, self.late, self.writer = threading.Event(), 0.0, threading.Thread()
        return {"pages": pages}

    def fill(self) -> Answer:
        """Fill the pages."""
        self._write(slice(0, len(self.numbers)))
        if self.engine == "kernel":
            self.mapping.madvise(mmap.MADV_MERGEABLE)
        return {}

    def change(self, begin: float, every: float) -> Answer:
        """Go on changing memory from ``begin`` (time.monotonic()) on; ``rest`` ends it.

        All processes replace what they share each ``every`` seconds, at the same moments.
        """
        self.writer = threading.Thread(target=self._change, args=(begin, every), daemon=True)
        self.writer.start()
        return {}

    def rest(self) -> Answer:
        """Change no more; returns the seconds that the latest step was late."""
        self.enough.set()
        if self.writer.ident is not None:
            self.writer.join()
        return {"late": round(self.late, 3)}

    def _change(self, begin: float, every: float) -> None:
        pages = len(self.numbers)
        replaced = slice(int(STAYS * pages), self.shared)
        edges = np.linspace(pages - int(REWRITTEN * pages), pages, STEPS + 1).astype(int).tolist()
        due, replacing, step = begin, begin + every, 0
        while not self.enough.wait(max(due - time.monotonic(), 0.0)):
            self.late = max(self.late, time.monotonic() - due)
            self._replace(slice(edges[step % STEPS], edges[step % STEPS + 1]))
            if due >= replacing:
                self._replace(replaced)
                replacing += every
            step += 1
            due = begin + step * ROUND / STEPS

    def _replace(self, part: slice) -> None:
        self.numbers[part] += np.uint64(1 << VERSION)
        self._write(part)

    def _write(self, some: slice) -> None:
        for part in parts(some.stop - some.start, PART):
            where = slice(some.start + part.start, some.start + part.stop)
            content(self.numbers[where], self.memory[where])


def main() -> None:
    """Answer until the pipe is closed; ends with the benchmark in any case."""
    die_with_parent(int(sys.argv[1]))
    worker = Changing()
    verbs = ("allocate", "fill", "change", "rest", "check")
    serve({verb: getattr(worker, verb) for verb in verbs})


if __name__ == "__main__":
    main()
