"""Sources of made-up pages: the content of each page is a number, so that any population of a
million pages fits. Their digests are real: of pages that begin with the number."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge.find.sources import Piece
from pagemerge.model import PAGE_SIZE

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
SEED = 5
STEP = 1 << 13
"""Pages of a piece."""


def pages_of(numbers: Int64s) -> NDArray[np.uint8]:
    """Pages with these contents (int64[n]): u8[n, 4096]; 0 is a page of zeros."""
    data = np.zeros((len(numbers), PAGE_SIZE // 8), np.int64)
    data[:, 0] = numbers
    return data.view(np.uint8)


def digests_of(numbers: Int64s, seed: int = SEED) -> UInt64s:
    """The digests of pages with these contents."""
    values, inverse = np.unique(numbers, return_inverse=True)
    found = np.empty(len(values), np.uint64)
    for start in range(0, len(values), STEP):
        here = slice(start, start + STEP)
        _core.digest(pages_of(values[here]), seed, found[here])
    return found[inverse]


@dataclass
class Made:
    """A source of pages with these contents and frames; the caller computes the digests, once."""

    numbers: Int64s
    digests: UInt64s
    named: UInt64s
    """u64[n]: names of frames."""
    domain: Hashable = None
    name: str = "made"
    error: str = ""
    ends_after: int = 1 << 60
    """Pages after which it goes away."""

    @classmethod
    def of(cls, numbers: Int64s, frames: UInt64s | None = None, domain: Hashable = None) -> Made:
        """Make a source; without ``frames``, no page shares its frame."""
        named = np.zeros(len(numbers), np.uint64) if frames is None else frames
        return cls(numbers, digests_of(numbers), named, domain)

    @property
    def total(self) -> int:
        """Number of pages."""
        return len(self.numbers)

    @property
    def markable(self) -> NDArray[np.bool_]:
        """All of them."""
        return np.ones(self.total, np.bool_)

    def read(self, seed: int, threads: int) -> Iterator[Piece]:
        """Yield the digests and frames."""
        assert seed == SEED
        for start in range(0, self.total, STEP):
            if start >= self.ends_after:
                self.error = "it has exited"
                return
            here = slice(start, start + STEP)
            yield Piece(self.digests[here], self.named[here], PAGE_SIZE * len(self.digests[here]))

    def contents(self, indices: Int64s) -> NDArray[np.uint8]:
        """Make the bytes of pages."""
        return pages_of(self.numbers[indices])

    def frames(self, indices: Int64s, digests: UInt64s) -> UInt64s:
        """Name the frames of pages."""
        return self.named[indices]


def clones(random: np.random.Generator, pages: int) -> Int64s:
    """Ten sources with the same contents but for a fifth."""
    numbers = np.tile(np.arange(1, pages // 10 + 1), 10)
    own = random.random(len(numbers)) < 0.2
    numbers[own] = np.arange(np.count_nonzero(own)) + pages
    return numbers


def zipf(random: np.random.Generator, pages: int) -> Int64s:
    """Few contents are very frequent, very many are rare."""
    return np.minimum(random.zipf(1.2, pages), 1 << 40)


def unique(random: np.random.Generator, pages: int) -> Int64s:
    """No page equals another."""
    return np.arange(1, pages + 1)


def heavy(random: np.random.Generator, pages: int) -> Int64s:
    """Five contents make three tenths; the others are unique, but for a rare pair."""
    numbers = np.arange(1, pages + 1)
    of_few = random.random(pages) < 0.3
    numbers[of_few] = -random.integers(1, 6, np.count_nonzero(of_few))
    paired = random.integers(pages, size=pages // 2000)
    numbers[paired] = numbers[paired - 1]
    return numbers


def zeros(random: np.random.Generator, pages: int) -> Int64s:
    """Two fifths are zeros, a fifth has a few copies, the rest is unique."""
    numbers = np.arange(1, pages + 1)
    dice = random.random(pages)
    few = int(np.count_nonzero(dice < 0.2))
    numbers[dice < 0.2] = -random.integers(1, max(few // 3, 2), few)
    numbers[dice > 0.6] = 0
    return numbers


KINDS = {
    "clones": clones,
    "Zipf": zipf,
    "all unique": unique,
    "few heavy contents": heavy,
    "mixed with zeros": zeros,
}
