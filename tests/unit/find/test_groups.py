"""Grouping against the obvious way to do it."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge import _core
from pagemerge.find import groups as grouping
from pagemerge.find import tally as counting
from pagemerge.find.groups import duplicates, parts
from pagemerge.find.tally import Totals, gains, shared_frames, tally
from pagemerge.model import Groups

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


def listed(groups: Groups) -> list[list[int]]:
    bounds = groups.starts.tolist()
    assert len(groups) == len(bounds) - 1
    return [groups.members[a:b].tolist() for a, b in itertools.pairwise(bounds)]


def grouped(digests: list[int]) -> list[list[int]]:
    return listed(duplicates(np.array(digests, np.uint64)))


@contextmanager
def small_steps() -> Iterator[None]:
    """Few elements take as many steps, parts and batches as millions otherwise do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "STEP", 7)
        patch.setattr(grouping, "WORTH_PARTS", 20)
        patch.setattr(counting, "BATCH", 5)
        yield


@given(st.lists(VALUES, max_size=300))
def test_as_the_naive_way(digests: list[int]) -> None:
    assert grouped(digests) == naive(digests)


@given(st.lists(VALUES, max_size=100))
@small_steps()
def test_in_parts_as_the_naive_way(digests: list[int]) -> None:
    found = [group for part in parts(np.array(digests, np.uint64)) for group in listed(part)]
    assert found == naive(digests) == grouped(digests)


@small_steps()
def test_there_are_several_parts() -> None:
    digests = [high << 62 | low for high in range(4) for low in (5, 6, 5, 5)] * 2
    found = [listed(part) for part in parts(np.array(digests, np.uint64))]
    assert [len(part) for part in found] == [2] * 4
    assert [group for part in found for group in part] == naive(digests)


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


def brute(digests: list[int], frames: list[int], owners: list[int], markable: list[bool]) -> Totals:
    """Count as the docstring of the module says, page by page."""
    pages = [page for page in zip(digests, frames, owners, markable, strict=True) if page[0]]
    # One page of each frame, the first: content, process, markable.
    named = {page[1]: page for page in reversed(pages) if page[1]}
    first = [(*it[:1], *it[2:]) for it in (*named.values(), *(it for it in pages if not it[1]))]
    zeros = [page for page in first if page[0] == _core.ZERO]
    copies = Counter(page[0] for page in pages if page[0] != _core.ZERO)
    holders = len({(digest, owner) for digest, _, owner, _ in pages if digest != _core.ZERO})
    framed = Counter(page[0] for page in first if page[0] != _core.ZERO)
    holders_of_frames = len({page[:2] for page in first if page[0] != _core.ZERO})
    marked = sum(
        max(framed[digest] - 1, 0) / copies[digest]
        for digest, _, _, mark in pages
        if mark and digest != _core.ZERO
    )
    return Totals(
        pages=len(pages),
        zero_pages=sum(page[0] == _core.ZERO for page in pages),
        duplicate_pages_within=copies.total() - holders,
        duplicate_pages_across=holders - len(copies),
        already_shared_pages=len(pages) - len(first),
        saveable_zero_pages=len(zeros),
        saveable_within_pages=framed.total() - holders_of_frames,
        saveable_across_pages=holders_of_frames - len(framed),
        markable_pages=sum(page[2] for page in zeros) + int(marked + 1e-6),
    )


CONTENTS = st.sampled_from([_core.ABSENT, _core.ZERO, *(it << 61 | it << 20 for it in range(1, 7))])
PAGES = st.lists(st.tuples(CONTENTS, st.integers(0, 3), st.booleans()), max_size=40)


@given(st.lists(PAGES, min_size=1, max_size=5))
@small_steps()
def test_tally_against_counting_page_by_page(processes: list[list[tuple[int, int, bool]]]) -> None:
    flat = [page for pages in processes for page in pages]
    digests = [digest for digest, _, _ in flat]
    # A frame holds one content, except where pages changed between two looks: the third frame.
    names = [digest * 3 + frame if frame < 3 else 99 << 50 for digest, frame, _ in flat]
    used = [name & (1 << 64) - 1 for name in names]
    frames = [it if page[0] and page[1] else 0 for it, page in zip(used, flat, strict=True)]
    markable = [mark for _, _, mark in flat]
    sizes = [len(pages) for pages in processes]
    owners = np.repeat(np.arange(len(sizes)), sizes).tolist()
    whole = np.array(digests, np.uint64), np.array(frames, np.uint64)
    offsets = np.cumsum([0, *sizes], dtype=np.int64)
    found = tally(*whole, offsets, np.array(markable, np.bool_))
    assert found.totals == brute(digests, frames, owners, markable)
    copies = Counter(digests)
    pages_of = Counter(frames)
    for one in range(len(sizes)):
        mine = [i for i, owner in enumerate(owners) if owner == one]
        others = [i for i in mine if digests[i] > _core.ZERO and copies[digests[i]] > 1]
        assert found.duplicate_pages[one] == len(others)
        assert found.shared_pages[one] == sum(pages_of[frames[i]] > 1 for i in mine if frames[i])
        assert found.zero_pages[one] == sum(digests[i] == _core.ZERO for i in mine)
        assert found.pages[one] == sum(digests[i] != _core.ABSENT for i in mine)
    assert found.gain.sum() == pytest.approx(found.totals.saveable_pages)
    gain = gains(*whole, True)
    assert gain.sum() == pytest.approx(found.totals.saveable_pages, rel=1e-5)


@small_steps()
def test_a_content_whose_frames_were_all_seen_with_other_contents_frees_nothing() -> None:
    """Pages may change between the looks at content and frame. Six copies are more than a batch."""
    a, b, frame = 100 << 40, 200 << 40, 9 << 40
    digests, frames = np.array([b] + [a] * 6, np.uint64), np.full(7, frame, np.uint64)
    found = tally(digests, frames, np.array([0, 7]))
    assert found.totals.already_shared_pages == 6
    assert found.totals.saveable_pages == found.gain.sum() == 0
    assert found.totals.duplicate_pages_within == 5


def test_only_pages_that_others_may_map_have_a_frame() -> None:
    present, exclusive = 1 << 63, 1 << 56
    entries = np.array([present | 5, present | exclusive | 6, 7, present | 5], np.uint64)
    digests = np.array([100, 200, 300, _core.ABSENT], np.uint64)
    names = shared_frames(entries, digests).tolist()
    assert names[0] > _core.ZERO
    assert names[1:] == [_core.ABSENT] * 3
    unknown = shared_frames(entries & ~np.uint64(7), digests).tolist()
    assert unknown == [(1 << 64) - 1 - 100, *[_core.ABSENT] * 3]


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
