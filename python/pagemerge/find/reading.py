"""Reads sources, and adds up the bytes and seconds that it takes."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pagemerge.find.sources import Source

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]

Progress = Callable[[int, int], None]
"""Called with the pages done and the pages to do."""


@dataclass(slots=True)
class Reader:
    """Reads sources, all with one seed; adds up the bytes and seconds that it takes."""

    threads: int
    """Threads that read; 0: one for each processor that this process may use."""
    to_do: int
    """Pages to read in all, for the progress."""
    progress: Progress = lambda _done, _total: None
    done: int = 0
    bytes_read: int = 0
    seconds: float = 0.0
    seed: int = field(default_factory=lambda: secrets.randbits(64))

    def read(self, sources: Sequence[Source]) -> tuple[UInt64s, UInt64s, Int64s]:
        """Read digests and names of frames (see ``tally``), u64[n] each, source after source.

        The third array, int64[sources + 1], says where each source starts, and the end. All pages
        of a source that ends during the call are absent.
        """
        began = time.monotonic()
        offsets = np.cumsum([0] + [source.total for source in sources], dtype=np.int64)
        digests = np.empty(int(offsets[-1]), np.uint64)
        frames = np.empty_like(digests)
        threads = self.threads or len(os.sched_getaffinity(0))
        for source, at in zip(sources, offsets.tolist(), strict=False):
            here = slice(at, at + source.total)
            for count, size in source.read(self.seed, digests[here], frames[here], threads):
                self.done, self.bytes_read = self.done + count, self.bytes_read + size
                self.progress(self.done, self.to_do)
        self.seconds += time.monotonic() - began
        return digests, frames, offsets
