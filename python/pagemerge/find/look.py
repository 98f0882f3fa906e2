"""Looks once at every page of some sources: at digests and frames, for whatever compares them."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ABSENT
from pagemerge.find.groups import steps
from pagemerge.find.sources import Source

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]

Progress = Callable[[int, int], None]
"""Called with the pages done and the pages to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """The pages of some sources, source after source; those of one domain lie together."""

    sources: Sequence[Source]
    digests: UInt64s
    """u64[pages]; ``ABSENT`` for pages that could not be read, and for all of a source that went
    away."""
    frames: UInt64s
    """u64[pages]: names of frames, see ``tally.shared_frames``."""
    offsets: Int64s
    """int64[sources + 1]: the first page of each source, and the end."""
    seed: int
    """The seed of the digests."""
    bytes_read: int
    seconds: float
    """Seconds for reading and digesting."""

    def domains(self) -> Iterator[Look]:
        """Yield the part of each trust domain; its arrays are views of these."""
        names = [source.domain for source in self.sources]
        bounds = [at for at in range(len(names)) if at == 0 or names[at] != names[at - 1]]
        for first, end in zip(bounds, [*bounds[1:], len(names)], strict=False):
            yield self.part(first, end)

    def part(self, first: int, end: int) -> Look:
        """Return the part of the sources from ``first`` up to ``end``."""
        pages = slice(int(self.offsets[first]), int(self.offsets[end]))
        return Look(
            self.sources[first:end],
            self.digests[pages],
            self.frames[pages],
            self.offsets[first : end + 1] - pages.start,
            self.seed,
            self.bytes_read,
            self.seconds,
        )

    def markable(self) -> NDArray[np.bool_]:
        """Find the pages that the user engine could be given: bool[pages]."""
        return np.concatenate([it.markable for it in self.sources] or [np.empty(0, np.bool_)])


def look(
    sources: Sequence[Source],
    threads: int = 0,
    progress: Progress = lambda _done, _total: None,
    seed: int | None = None,
) -> Look:
    """Read all pages of ``sources`` with ``threads`` threads.

    0 threads: one for each processor that this process may use. Nothing is raised for a source that
    goes away: it has an ``error``. ``seed``: of the digests; a new one if it is not given, so that
    no process can prepare pages with equal digests.
    """
    began, done, size = time.monotonic(), 0, 0
    order: dict[Hashable, int] = {}
    for source in sources:
        order.setdefault(source.domain, len(order))
    ordered = sorted(sources, key=lambda source: order[source.domain])
    offsets = np.cumsum([0] + [source.total for source in ordered], dtype=np.int64)
    # Memory that is ABSENT and never written costs nothing, and few pages share a frame.
    assert ABSENT == 0
    digests, frames = (np.zeros(int(offsets[-1]), np.uint64) for _ in range(2))
    seed = secrets.randbits(64) if seed is None else seed
    threads = threads or len(os.sched_getaffinity(0))
    for source, first, end in zip(ordered, offsets.tolist(), offsets[1:].tolist(), strict=False):
        at = first
        for piece in source.read(seed, threads):
            here = slice(at, at + len(piece.digests))
            digests[here] = piece.digests
            for part in steps(len(piece.frames)):
                if piece.frames[part].any():
                    frames[at + part.start : at + part.stop] = piece.frames[part]
            at, size = here.stop, size + piece.bytes_read
            progress(done + at - first, len(digests))
        if source.error:
            digests[first:end] = frames[first:end] = ABSENT
        done += end - first
        if at < end:
            progress(done, len(digests))
    return Look(ordered, digests, frames, offsets, seed, size, time.monotonic() - began)
