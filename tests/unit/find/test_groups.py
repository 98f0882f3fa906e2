"""Grouping against the obvious way to do it."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge import _core
from pagemerge.find.groups import duplicates
from pagemerge.find.tally import Totals, gains, tally

# Few values: duplicates. Small distances and few bits: equal upper bits, where the index displaces
# the lower ones. Both ends: reserved values and their neighbours.
VALUES = st.one_of(
    st.integers(0, 40),
    st.integers(0, 40).map(lambda low: 0xABCDEF << 40 | low),
    st.integers(0, 3).map(lambda high: high << 62),
    st.integers(0, 8).map(lambda down: (1 << 64) - 1 - down),
    st.integers(0, (1 << 64) - 1),
)


def naive(digests: list[int]) -> list[list[int]]:
    places = defaultdict(list)
    for index, digest in enumerate(digests):
        if digest not in (_core.ABSENT, _core.ZERO):
            places[digest].append(index)
    return [places[digest] for digest in sorted(places) if len(places[digest]) > 1]


def grouped(digests: list[int]) -> list[list[int]]:
    groups = duplicates(np.array(digests, np.uint64))
    bounds = groups.starts.tolist()
    assert len(groups) == len(bounds) - 1
    return [groups.members[a:b].tolist() for a, b in itertools.pairwise(bounds)]


@given(st.lists(VALUES, max_size=300))
def test_as_the_naive_way(digests: list[int]) -> None:
    assert grouped(digests) == naive(digests)


def test_alternating_digests_with_equal_upper_bits() -> None:
    base = 0x1234 << 48
    digests = [base | low for low in (3, 1, 3, 2, 1, 3, 4)]
    assert grouped(digests) == [[1, 4], [0, 2, 5]]


@pytest.mark.parametrize("digests", [[], [5], [0, 0, 1, 1], [1, 5, 0, 5]])
def test_edges(digests: list[int]) -> None:
    assert grouped(digests) == naive(digests)


def test_many_on_several_threads() -> None:
    random = np.random.default_rng(3)
    digests = random.integers(0, 60_000, 200_000, np.uint64) << np.uint64(30)
    groups = duplicates(digests, threads=3)
    values, counts = np.unique(digests[digests > 1], return_counts=True)
    assert len(groups) == np.count_nonzero(counts > 1)
    assert np.array_equal(np.diff(groups.starts), counts[counts > 1])
    assert np.array_equal(digests[groups.members[groups.starts[:-1]]], values[counts > 1])
    assert np.array_equal(
        digests[groups.members], np.repeat(values, np.where(counts > 1, counts, 0))
    )


def test_tally_of_two_processes() -> None:
    zero, gone, a, b, c = _core.ZERO, _core.ABSENT, 100 << 40, 200 << 40, 300 << 40
    digests = np.array([a, a, b, zero, c, gone, a, b, b, zero, zero], np.uint64)
    # b of both processes is one frame; the last two zeros are another.
    frames = np.array([0, 0, 7, 0, 0, 0, 0, 7, 0, 8, 8], np.uint64)
    counted = tally(digests, frames, np.array([0, 6, 11], np.int64))
    assert counted.totals == Totals(
        pages=10,
        zero_pages=3,
        duplicate_pages_within=2,
        duplicate_pages_across=2,
        already_shared_pages=2,
        saveable_zero_pages=2,
        saveable_within_pages=1,
        saveable_across_pages=2,
        markable_pages=5,
    )
    assert counted.pages.tolist() == [5, 5]
    assert counted.duplicate_pages.tolist() == [3, 3]
    assert counted.shared_pages.tolist() == [1, 3]
    assert counted.gain.sum() == pytest.approx(counted.totals.saveable_pages)


def test_gains_page_by_page() -> None:
    zero, gone, a, b, c = _core.ZERO, _core.ABSENT, 100 << 40, 200 << 40, 300 << 40
    digests = np.array([a, a, b, zero, c, gone, a, b, b, zero, zero], np.uint64)
    # Two b lie in one frame, as do the last two zeros; both of these are needed to free it.
    frames = np.array([0, 0, 7, 0, 0, 0, 0, 7, 0, 8, 8], np.uint64)
    expected = np.array([2, 2, 1, 2, 0, 0, 2, 1, 1, 2, 2]) / 3
    assert gains(digests, frames, True) == pytest.approx(expected)
    expected[digests == zero] = 0
    assert gains(digests, frames, False) == pytest.approx(expected)
    family = np.array([a, b, zero, a, b, zero], np.uint64)
    shared = np.array([1, 2, 3, 1, 2, 3], np.uint64) << np.uint64(40)
    assert gains(family, shared, True) == pytest.approx([0, 0, 0.5] * 2), "but for its zeros"


@given(st.lists(st.lists(st.integers(0, 8), max_size=20), min_size=1, max_size=5), st.randoms())
def test_the_sum_in_the_docstring_holds(processes: list[list[int]], random: object) -> None:
    flat = [value << 40 if value > 1 else value for pages in processes for value in pages]
    offsets = np.cumsum([0] + [len(pages) for pages in processes], dtype=np.int64)
    digests = np.array(flat, np.uint64)
    # Frames of equal content may be one; never those of different content.
    choose = random.randrange  # type: ignore[attr-defined]
    frames = np.array([value + choose(2) * 99 if value and choose(2) else 0 for value in flat])
    totals = tally(digests, frames.astype(np.uint64), offsets).totals
    assert totals.saveable_pages == (
        totals.zero_pages
        + totals.duplicate_pages_within
        + totals.duplicate_pages_across
        - totals.already_shared_pages
    )
    assert totals.saveable_zero_pages <= totals.zero_pages
    assert 0 <= totals.saveable_within_pages <= totals.duplicate_pages_within
    assert 0 <= totals.saveable_across_pages <= totals.duplicate_pages_across
    assert totals.markable_pages == totals.saveable_pages, "of all pages, unless told which"
