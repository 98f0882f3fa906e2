"""The sample against the full count, on populations whose savings are known."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge.estimate import sample
from pagemerge.estimate.interval import Interval
from pagemerge.estimate.sample import Estimate, estimate
from pagemerge.find.tally import tally
from tests.support.synthetic import KINDS, SEED, Made, digests_of, pages_of

PAGES, DRAWN, CASES = 50_000, 1000, 200
UInt64s = NDArray[np.uint64]


def estimated(*sources: Made, drawn: int = DRAWN, case: int = 0) -> Estimate:
    return estimate(sources, drawn, 1, random=np.random.default_rng(case), seed=SEED)


def holds(found: Interval, expected: int) -> bool:
    """Is the truth in the interval, but for rounding?"""
    return found.low_pages - 1e-6 <= expected <= found.high_pages + 1e-6


def truth(*sources: Made) -> int:
    """What a full count says of the sources of one domain."""
    digests = np.concatenate([it.digests for it in sources])
    frames = np.concatenate([it.named for it in sources])
    offsets = np.cumsum([0] + [it.total for it in sources], dtype=np.int64)
    return tally(digests, frames, offsets).totals.saveable_pages


def shared(made: Made, random: np.random.Generator) -> Made:
    """Two fifths of the pages share frames with equal pages: few frames for each content."""
    which = random.integers(1, 4, made.total).astype(np.uint64) * np.uint64(0xD1342543DE82EF95)
    names = (made.digests * np.uint64(0x9E3779B97F4A7C15) + which) | np.uint64(2)
    return replace(made, named=np.where(random.random(made.total) < 0.4, names, np.uint64(0)))


@pytest.mark.parametrize("frames", ["own frames", "shared frames"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_holds_the_truth(kind: str, frames: str) -> None:
    random = np.random.default_rng(1)
    made = Made.of(KINDS[kind](random, PAGES))
    if frames == "shared frames":
        made = shared(made, random)
    expected = truth(made)
    found = [estimated(made, case=case).total for case in range(CASES)]
    assert sum(holds(it.saveable, expected) for it in found) >= 0.93 * CASES
    errors = np.array([it.saveable.pages - expected for it in found])
    spread = max(float(errors.std()), 0.5)
    assert abs(errors.mean()) < 4 * spread / np.sqrt(CASES), "no bias"
    widths = [it.saveable.high_pages - it.saveable.low_pages for it in found]
    assert max(widths) < 0.08 * made.total, "an interval that holds everything says nothing"
    assert {it.pages for it in found} == {made.total}
    assert {it.zero_pages for it in found} == {np.count_nonzero(made.numbers == 0)}
    assert not any(it.changed_pages for it in found)


def test_all_pages_drawn_give_what_the_full_count_gives() -> None:
    random = np.random.default_rng(2)
    for make in KINDS.values():
        made = shared(Made.of(make(random, 3000)), random)
        found = estimated(made, drawn=made.total).total
        assert found.saveable.pages == pytest.approx(truth(made))
        assert found.saveable.low_pages == pytest.approx(found.saveable.high_pages)


def test_frequent_contents_are_exact() -> None:
    numbers = np.repeat([-1, -2, -3], 3000)
    found = estimated(Made.of(numbers), drawn=500).total.saveable
    assert (found.pages, found.low_pages, found.high_pages) == (8997, 8997, 8997)


def test_a_family_after_a_fork_has_nothing_to_save() -> None:
    """With frames told by the kernel, and with those guessed from the content (no privilege)."""
    numbers = np.tile(np.arange(1, 20_001), 3)
    made = Made.of(numbers)
    for names in (~made.digests, made.digests * np.uint64(3) | np.uint64(2)):
        found = estimated(replace(made, named=names)).total.saveable
        assert found.pages == found.low_pages == 0
        assert found.high_pages < 0.01 * made.total


def test_domains_share_nothing_and_their_errors_are_independent() -> None:
    numbers = np.arange(1, 20_001)
    apart = [Made.of(numbers, domain=it) for it in ("a", "b", "c", "a")]
    found = estimated(*apart)
    assert [it.domain for it in found.domains] == ["a", "b", "c"]
    assert [it.sources for it in found.domains] == [2, 1, 1]
    low, high = found.total.saveable.low_pages, found.total.saveable.high_pages
    assert low <= 20_000 <= high
    assert found.domains[1].saveable.pages == 0
    assert found.total.pages == 80_000
    ends = sum(it.saveable.high_pages - it.saveable.pages for it in found.domains)
    assert high - found.total.saveable.pages < ends
    small = estimated(Made.of(numbers), Made.of(numbers[:300], domain="small"), drawn=500)
    assert small.domains[1].sampled_pages == 300
    assert small.domains[1].saveable.high_pages == 0


def test_a_source_that_goes_away_counts_nowhere() -> None:
    numbers = np.arange(1, 20_001)
    stays, goes = Made.of(numbers), Made.of(numbers)
    goes.ends_after, goes.name = 10_000, "goes"
    found = estimated(goes, stays)
    assert found.errors == [("goes", "it has exited")]
    assert (found.total.sources, found.total.pages) == (1, 20_000)
    assert found.total.saveable.pages == 0
    assert 300 < found.total.sampled_pages < 700


class Changing(Made):
    """A source whose pages held other contents when they were drawn."""

    before: NDArray[np.int64]

    def contents(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return pages_of(self.before[indices])


@pytest.mark.parametrize("shares", [0.0, 1.0], ids=["to unique ones", "to duplicates"])
def test_pages_that_changed_widen_the_interval(shares: float) -> None:
    """A twentieth of the pages have changed; half of the pages are pairs."""
    random = np.random.default_rng(3)
    numbers = np.tile(np.arange(1, 10_001), 2)
    numbers = np.concatenate([numbers, np.arange(30_001, 50_001)])
    where = random.random(len(numbers)) < 0.05
    before = np.where(where, np.arange(len(numbers)) + 10**6, numbers)
    now = numbers.copy()
    if not shares:
        now[where] = np.arange(np.count_nonzero(where)) + 10**7
    else:
        now[where] = -random.permutation(np.count_nonzero(where)) // 2 - 1
    made = Changing(now, digests_of(now), np.zeros(len(now), np.uint64))
    made.before = before
    expected = truth(made)
    found = [estimated(made, case=case).total for case in range(50)]
    assert sum(holds(it.saveable, expected) for it in found) >= 46
    assert all(0.02 * DRAWN < it.changed_pages < 0.08 * DRAWN for it in found)


def test_pages_that_could_not_be_read_are_no_pages() -> None:
    made = Made.of(np.tile(np.arange(1, 5001), 2))
    made.digests[5000:] = _core.ABSENT
    found = estimated(made).total
    assert found.pages == 5000
    assert found.saveable.pages == 0
    nothing = estimated(replace(made, digests=np.zeros(10_000, np.uint64))).total
    assert (nothing.pages, nothing.saveable.high_pages) == (0, 0)
    empty = estimated()
    assert (empty.total.pages, empty.total.saveable.high_pages, empty.domains) == (0, 0, [])


def test_every_page_is_drawn_with_the_same_probability() -> None:
    random = np.random.default_rng(4)
    for count in (20, 100, 399, 400):
        often = np.zeros(400, np.int64)
        for _ in range(500):
            drawn = sample._drawn(random, 400, count)
            assert len(np.unique(drawn)) == count
            assert np.all(drawn[1:] > drawn[:-1])
            often[drawn] += 1
        share = count / 400
        assert abs(often - 500 * share).max() <= 3 + 5 * np.sqrt(500 * share * (1 - share))


def test_the_state_does_not_grow_with_the_memory() -> None:
    """At most 2 MB for 16 GB, which has 4 million pages; digests are random here."""
    pages = 1 << 22
    random = np.random.default_rng(5)
    digests = random.integers(2, 1 << 64, pages, np.uint64)
    made = Made(np.broadcast_to(np.int64(1), (pages,)), digests, digests)
    estimated(Made.of(np.arange(20_000)), drawn=sample.PAGES)
    tracemalloc.start()
    try:
        found = estimated(made, drawn=sample.PAGES)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert found.total.pages == pages
