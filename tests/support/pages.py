"""Sources of pages that a test makes: arrays in its own memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge.find.sources import Piece
from pagemerge.model import PAGE_SIZE

Int64s = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass
class Pages:
    """Some pages as a source."""

    name: str
    data: Bytes
    """u8[n, 4096]."""
    domain: Hashable = "a domain"
    frames: Sequence[int] = ()
    """The frame of each page, 0 for one of its own; empty: each has its own."""
    error: str = ""

    @property
    def total(self) -> int:
        return len(self.data)

    @property
    def markable(self) -> NDArray[np.bool_]:
        return np.ones(self.total, np.bool_)

    def read(self, seed: int, threads: int) -> Iterator[Piece]:
        digests = np.empty(self.total, np.uint64)
        _core.digest(self.data.reshape(-1), seed, digests)
        frames = np.array(self.frames or [0] * self.total, np.uint64)
        half = self.total // 2
        for here in (slice(0, half), slice(half, self.total)):
            yield Piece(digests[here], frames[here], len(digests[here]) * PAGE_SIZE)

    def contents(self, indices: Int64s) -> Bytes:
        return self.data[indices]


def of_letters(text: str) -> Bytes:
    """A page for each letter, equal for equal letters; ``.`` is a page of zeros."""
    made = np.zeros((len(text), PAGE_SIZE), np.uint8)
    for at, letter in enumerate(text):
        if letter != ".":
            made[at] = np.random.default_rng(ord(letter)).integers(0, 256, PAGE_SIZE, np.uint8)
    return made
