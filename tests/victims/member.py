"""A well-behaved client: mergeable memory of known contents, and every way to look at it.

Its pages are numbered; page ``n`` of ``fill(seed)`` is made of the words ``n * 2 ** 32 + seed``, so
that two members with the same seed hold the same pages and no two pages of one are equal.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

import pagemerge
from pagemerge import _core
from pagemerge.demo.dialog import Answer, serve
from pagemerge.model import PAGE_SIZE

WORDS = PAGE_SIZE // 8
PRESENT, OF_FILE = np.uint64(1 << 63), np.uint64(1 << 61)


class Member:
    """The memory, what it must hold, and a writer if one was asked for."""

    def __init__(self) -> None:
        self.memory = np.zeros((0, WORDS), np.uint64)
        self.wanted = np.zeros(0, np.uint64)
        self.stopped = threading.Event()
        self.writer: threading.Thread | None = None
        self.turns = 0

    def fill(self, pages: int, seed: int) -> Answer:
        """Have ``pages`` pages of contents of that seed in mergeable memory."""
        memory = np.frombuffer(memoryview(pagemerge.buffer(pages * PAGE_SIZE)), np.uint64)
        self.memory = memory.reshape(pages, WORDS)
        self.wanted = np.arange(pages, dtype=np.uint64) * np.uint64(2**32) + np.uint64(seed)
        self.memory[:] = self.wanted[:, None]
        return {"base": self.memory.ctypes.data}

    def intern(self) -> Answer:
        """Merge it at once."""
        pagemerge.intern(self.memory)
        return {}

    def unmerge(self) -> Answer:
        """Separate all of it."""
        pagemerge.unmerge(self.memory)
        return {}

    def copy(self, pages: int, seed: int) -> Answer:
        """Have merged copies of such pages instead."""
        wanted = np.arange(pages, dtype=np.uint64) * np.uint64(2**32) + np.uint64(seed)
        self.memory = pagemerge.copy(np.repeat(wanted, WORDS).reshape(pages, WORDS))
        self.wanted = wanted
        return {}

    def write(self, first: int, pages: int, seed: int) -> Answer:
        """Change some pages."""
        part = slice(first, first + pages)
        self.wanted[part] = np.arange(first, first + pages) * 2**32 + seed
        self.memory[part] = self.wanted[part, None]
        return {}

    def check(self) -> Answer:
        """How many pages are not what they must be; a writer's are looked at as well."""
        if self.writer:
            self.stopped.set()
            self.writer.join()
            self.writer = None
        return {"wrong": int((self.memory != self.wanted[:, None]).any(axis=1).sum())}

    def scribble(self) -> Answer:
        """Start a thread that rewrites pages all the time and verifies each before."""
        self.stopped.clear()
        self.writer = threading.Thread(target=self._scribble, daemon=True)
        self.writer.start()
        return {}

    def _scribble(self) -> None:
        random = np.random.default_rng(os.getpid())
        while not self.stopped.is_set():
            page = int(random.integers(len(self.memory)))
            if (self.memory[page] != self.wanted[page]).any():
                os.write(2, b"a write was lost\n")
                os._exit(9)
            self.wanted[page] = page * 2**32 + int(random.integers(1, 5))  # never a page of zeros
            self.memory[page] = self.wanted[page]
            self.turns += 1

    def written(self) -> Answer:
        """Pages written by the thread so far."""
        return {"turns": self.turns}

    def slabbed(self) -> Answer:
        """Pages that lie in a mapping of a slab and are not this process's own, for the kernel.

        Not by bits alone: a page that is merged again at this moment has no entry.
        """
        base, mapped = self.memory.ctypes.data, np.zeros(len(self.memory), bool)
        for line in Path("/proc/self/maps").read_text().splitlines():
            if _core.SLAB_NAME in line:
                start, end = (int(word, 16) for word in line.split()[0].split("-"))
                first, last = (start - base) // PAGE_SIZE, (end - base) // PAGE_SIZE
                mapped[max(first, 0) : max(last, 0)] = True
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(base // PAGE_SIZE * 8)
            entries = np.frombuffer(pagemap.read(len(mapped) * 8), np.uint64)
        own = (entries & PRESENT != 0) & (entries & OF_FILE == 0)
        return {"slabbed": int((mapped & ~own).sum())}

    def summary(self) -> Answer:
        """What the agent says of itself."""
        return dict(_core.agent_summary())

    def call(self, code: str) -> Any:
        """Run code in this process; its ``answer`` is the answer."""
        space: dict[str, Any] = {"member": self, "pagemerge": pagemerge, "np": np, "os": os}
        exec(code, space)
        return space.get("answer", {})


def main() -> None:
    if len(sys.argv) > 1:  # an unprivileged user, who need not be able to read our modules
        import msgspec  # noqa: F401

        import pagemerge.hub.reach
        import pagemerge.hub.wire  # noqa: F401

        os.setgroups([])
        os.setresgid(*[int(sys.argv[1])] * 3)
        os.setresuid(*[int(sys.argv[1])] * 3)
        pr_set_dumpable = 4  # as a program of that user would be from its start
        ctypes.CDLL(None).prctl(pr_set_dumpable, 1, 0, 0, 0)
    member = Member()
    verbs = [name for name in dir(member) if not name.startswith("_")]
    serve({verb: getattr(member, verb) for verb in verbs if callable(getattr(member, verb))})


if __name__ == "__main__":
    main()
