"""A thread that never stops writing to mergeable memory, and notices when a write is lost.

All pages get the same content in one turn, so that a merger finds them equal. They change in the
next turn, so that merging them races with a write. The thread also keeps what it wrote last in
ordinary memory, and compares it before it writes a page again.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

REST = 0.02
"""Seconds between turns: short enough to race, long enough to leave the processor to others."""

_ODD = np.uint64(0x9E3779B97F4A7C15)


class Writer(threading.Thread):
    """Writes to ``pages``, a uint64 array of shape (pages, words in a page), until ``stop``."""

    def __init__(self, pages: Words) -> None:
        super().__init__(name="writer", daemon=True)
        self._pages = pages
        self._last = np.zeros(len(pages), np.uint64)
        self._spread = np.arange(pages.shape[1], dtype=np.uint64) * _ODD
        self._turn = threading.Condition()
        self._ending = threading.Event()
        self.turns = 0
        """Number of times that every page was written."""
        self.lost = 0
        """Number of pages found to differ from what was written last: must stay 0."""
        self.cpu_seconds = 0.0
        """Processor time that this thread has used, in seconds."""
        for index in range(len(pages)):
            pages[index] = self._content(0)

    def run(self) -> None:
        """Write turn after turn; it holds the lock during a turn, so ``check`` sees whole turns."""
        while not self._ending.wait(REST):
            with self._turn:
                content = self._content(self.turns + 1)
                for index, page in enumerate(self._pages):
                    if not np.array_equal(page, self._content(int(self._last[index]))):
                        self.lost += 1
                    page[:] = content
                    self._last[index] = self.turns + 1
                self.turns += 1
                self.cpu_seconds = time.thread_time()
                self._turn.notify_all()

    def check(self) -> tuple[int, int]:
        """Check all pages; returns the writes made, and the lost writes found so far."""
        with self._turn:
            for index, page in enumerate(self._pages):
                if not np.array_equal(page, self._content(int(self._last[index]))):
                    self.lost += 1
            return self.turns * len(self._pages), self.lost

    def wait(self, turns: int, patience: float) -> bool:
        """Wait for ``turns`` more turns, at most ``patience`` seconds; false if time ran out."""
        with self._turn:
            goal = self.turns + turns
            return self._turn.wait_for(lambda: self.turns >= goal, patience)

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self.join()

    def _content(self, turn: int) -> Words:
        return self._spread + np.uint64(turn)
