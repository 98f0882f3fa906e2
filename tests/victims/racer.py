"""A process whose writers (``racer.c``) change mergeable memory while it is merged.

Arguments: the compiled library, a file with one page for each fill, pages of memory (0: writes
to the memory of another process). The writers of one memory share its pages by number.
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
from pagemerge.demo.dialog import Answer, serve
from pagemerge.model import PAGE_SIZE

WAYS = {"stores": 1, "reads": 2, "direct": 4, "remote": 8}
STATE = np.dtype([("fill", "u4"), ("at", "u4"), ("value", "u8")])
WORDS = PAGE_SIZE // 8


class Race(ctypes.Structure):
    """struct race of racer.c."""

    _fields_ = (
        ("base", ctypes.c_void_p),
        ("states", ctypes.c_void_p),
        *((name, ctypes.c_uint64) for name in ("pages", "number", "writers", "ways")),
        *((name, ctypes.c_int32) for name in ("pid", "file", "direct", "stop")),
        *((name, ctypes.c_uint64) for name in ("writes", "lost", "failed")),
        *((f"lost_{name}", ctypes.c_uint64) for name in ("page", "at", "found", "wanted")),
    )


class Racer:
    """The memory, and the writers that run."""

    def __init__(self, library: str, fills: str, pages: int) -> None:
        self.library, self.fills = ctypes.CDLL(library), fills
        memory = memoryview(pagemerge.buffer(pages * PAGE_SIZE)) if pages else b""
        self.memory = np.frombuffer(memory, np.uint8)
        self.running: list[tuple[Race, threading.Thread]] = []

    def start(
        self, writers: list[dict[str, Any]], of: int, pages: int, base: int = 0, pid: int = 0
    ) -> Answer:
        """Start one thread for each of ``writers`` (number, ways), out of ``of`` altogether."""
        self.states = np.zeros(pages, STATE)
        self.states["at"] = WORDS
        for writer in writers:
            race = Race(
                base=base or self.memory.ctypes.data,
                states=self.states.ctypes.data,
                pages=pages,
                number=writer["number"],
                writers=of,
                ways=sum(WAYS[way] for way in writer["ways"]),
                pid=pid,
                file=os.open(self.fills, os.O_RDONLY),
                direct=os.open(self.fills, os.O_RDONLY | os.O_DIRECT)
                if "direct" in writer["ways"]
                else -1,
            )
            thread = threading.Thread(target=self.library.run, args=(ctypes.byref(race),))
            self.running.append((race, thread))
            thread.start()
        return {}

    def writes(self) -> Answer:
        """Changes so far."""
        return {"writes": sum(race.writes for race, _ in self.running)}

    def stop(self) -> Answer:
        """Stop the writers, and verify every page of theirs for the last time."""
        for race, _ in self.running:
            race.stop = 1
        for race, thread in self.running:
            thread.join()
            self.library.check(ctypes.byref(race))
            if race.direct >= 0:
                os.close(race.direct)  # it keeps pages that were merged before from being merged
        races = [race for race, _ in self.running]
        total = {key: sum(getattr(it, key) for it in races) for key in ("writes", "lost", "failed")}
        losses = [
            {key: getattr(it, f"lost_{key}") for key in ("page", "at", "found", "wanted")}
            for it in races
            if it.lost
        ]
        return {**total, "losses": losses}

    def frames(self) -> Answer:
        """The kernel's entry of each page (pagemap), and its fill (-1: one word differs)."""
        fills = np.where(self.states["at"] == WORDS, self.states["fill"].astype(int), -1)
        int(self.memory[::PAGE_SIZE].sum())  # a page that was merged and not read has no entry
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(self.memory.ctypes.data // PAGE_SIZE * 8)
            entries = np.frombuffer(pagemap.read(len(fills) * 8), np.uint64)
        return {"entries": entries.tolist(), "fills": fills.tolist()}


def main() -> None:
    library, fills, pages = sys.argv[1:]
    racer = Racer(library, fills, int(pages))
    base = racer.memory.ctypes.data if racer.memory is not None else 0
    verbs = ("start", "writes", "stop", "frames")
    serve({verb: getattr(racer, verb) for verb in verbs}, base=base)


if __name__ == "__main__":
    main()
