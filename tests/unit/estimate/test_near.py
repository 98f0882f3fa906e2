"""Nearly equal pages, against brute force."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pagemerge import _core
from pagemerge.estimate import near as module
from pagemerge.estimate.near import near, zero_blocks
from pagemerge.find.look import Look, look
from pagemerge.find.sources import Piece, Source

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class Pages:
    """A source of pages that lie in this process; as a memory image, its frames are not known."""

    def __init__(self, pages: Bytes, domain: str = "") -> None:
        self.pages, self.domain = pages, domain
        self.name, self.error, self.total = "pages", "", len(pages)
        self.markable = np.ones(len(pages), np.bool_)

    def read(self, seed: int, threads: int) -> Iterator[Piece]:
        digests = np.empty(self.total, np.uint64)
        _core.digest(self.pages.reshape(-1), seed, digests)
        yield Piece(digests, np.zeros_like(digests), self.pages.nbytes)

    def contents(self, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Bytes:
        assert (np.diff(indices) > 0).all()
        return self.pages[indices]


def look_at(*sources: Source) -> Look:
    return look(sources)


def blocks_mixed(rng: np.random.Generator, pages: int, kinds: int, zeros: float) -> Bytes:
    """Pages of blocks that are drawn from a few, or are zero; no two pages are equal."""
    drawn = rng.integers(0, 256, (kinds, 256), dtype=np.uint8)
    chosen = rng.integers(0, kinds, (pages, 16))
    made = drawn[chosen]
    made[rng.random((pages, 16)) < zeros] = 0
    found: Bytes = np.unique(made.reshape(pages, 4096), axis=0)
    return found


def brute(pages: Bytes, others: Bytes) -> list[bool]:
    ours, theirs = pages.reshape(-1, 16, 256), others.reshape(-1, 16, 256)
    counts = [(page == theirs).all(axis=2).sum(axis=1) for page in ours]
    return [bool(((count >= 12) & (count < 16)).any()) for count in counts]


@pytest.mark.parametrize("kinds", [2, 3, 40])
@pytest.mark.parametrize("zeros", [0.0, 0.4, 0.8])
def test_against_brute_force(kinds: int, zeros: float) -> None:
    rng = np.random.default_rng(kinds)
    pages = blocks_mixed(rng, 900, kinds, zeros)
    # Some that differ in 3, 4, 5 and 6 blocks from another.
    for at, changed in enumerate((3, 4, 5, 6)):
        pages[at] = pages[100 + at]
        for block in rng.choice(16, changed, replace=False):
            pages[at, block * 256 + 5] ^= 1
    chosen = np.sort(rng.choice(len(pages), 300, replace=False))
    found, whole = near(look_at(Pages(pages)), np.arange(len(pages)), pages[chosen], rng)
    assert whole
    assert found.tolist() == brute(pages[chosen], pages)


def test_words_that_differ_in_their_highest_bits_are_told_apart() -> None:
    # Weighted sums of these are equal: only the comparison of bytes can tell.
    pages = np.random.default_rng(1).integers(0, 256, (2, 4096), dtype=np.uint8)
    pages[1] = pages[0]
    for block in range(6):
        pages[1, block * 256 + 7] ^= 128
        pages[1, block * 256 + 15] ^= 128
    rng = np.random.default_rng(2)
    assert not near(look_at(Pages(pages)), np.arange(2), pages[:1], rng)[0].any()


def test_only_the_pages_to_compare_with_count() -> None:
    pages = np.random.default_rng(1).integers(0, 256, (3, 4096), dtype=np.uint8)
    pages[2] = pages[0]
    pages[2, 0] ^= 1
    found = look_at(Pages(pages))
    rng = np.random.default_rng(2)
    assert near(found, np.array([0, 1, 2]), pages, rng)[0].tolist() == [True, False, True]
    assert near(found, np.array([0, 1]), pages, rng)[0].tolist() == [False, False, True]


def test_a_sample_of_the_others_finds_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = np.random.default_rng(1).integers(0, 256, (2000, 4096), dtype=np.uint8)
    pages[1000:] = pages[:1000]
    pages[1000:, 0] ^= 1
    rng = np.random.default_rng(2)
    every = np.arange(2000)
    found, whole = near(look_at(Pages(pages)), every, pages[:400], rng, most=1000)
    assert not whole
    assert 0.4 < found.mean() < 0.6
    monkeypatch.setattr(module, "_CHUNK", 7)
    found, whole = near(look_at(Pages(pages)), every, pages[:400], rng)
    assert whole
    assert found.all()


def test_zero_blocks() -> None:
    pages = np.zeros((2, 4096), np.uint8)
    pages[1, 0] = pages[1, 4095] = 1
    assert zero_blocks(pages).tolist() == [16, 14]
