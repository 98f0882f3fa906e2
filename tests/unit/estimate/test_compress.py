"""Compression estimates: intervals, strata and samples, against exact counts of synthetic pages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pagemerge.errors import PagemergeError
from pagemerge.estimate.compress import Estimate, compress, share, total
from pagemerge.estimate.zram import compressed_bytes, compressors, held_bytes, unfilled_bytes
from pagemerge.model import PAGE_SIZE
from tests.unit.estimate.test_near import Bytes, Pages, brute, look_at

RUNS = 200


Sizes = np.ndarray[tuple[int], np.dtype[np.float64]]


def kinds() -> dict[str, Callable[[np.random.Generator, int], Sizes]]:
    """Sizes of compressed pages, as memory has them."""
    return {
        "even": lambda rng, n: rng.uniform(0, 4096, n),
        "whole": lambda rng, n: np.full(n, 4096.0),
        "two": lambda rng, n: np.where(rng.random(n) < 0.3, 40.0, 4096.0),
        "rare": lambda rng, n: np.where(rng.random(n) < 0.004, 40.0, 4096.0),
        "small": lambda rng, n: np.minimum(rng.exponential(300, n), 4096),
    }


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_intervals_hold_the_true_total(kind: str) -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(RUNS):
        kept, freed = kinds()[kind](rng, 20_000), kinds()[kind](rng, 3_000)
        drawn = [(rng.choice(kept, 900, replace=False), 20_000)]
        drawn.append((rng.choice(freed, 300, replace=False), 3_000))
        found = total(drawn)
        assert found.low <= found.value <= found.high
        assert found.value == pytest.approx(kept.sum() + freed.sum(), rel=0.25)
        hits += found.low <= kept.sum() + freed.sum() <= found.high
    assert hits >= 0.93 * RUNS


def test_intervals_are_not_wider_than_they_need_be() -> None:
    rng = np.random.default_rng(1)
    found = total([(rng.uniform(0, 4096, 1000), 100_000)])
    deviation = 4096 / np.sqrt(12 * 1000) * 100_000
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.05)


@pytest.mark.parametrize("true", [0.0, 0.002, 0.03, 0.5, 1.0])
def test_intervals_hold_the_true_share(true: float) -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(RUNS):
        marked = rng.random(5000) < true
        found = share(int(rng.choice(marked, 1500, replace=False).sum()), 1500, 5000)
        assert 0 <= found.low <= found.value <= found.high <= 1
        hits += found.low <= marked.mean() <= found.high
    assert hits >= 0.93 * RUNS


def test_all_of_a_stratum_is_exact_and_none_is_not_known() -> None:
    values = np.array([1.0, 2.0, 3.0])
    assert total([(values, 3)]) == Estimate(6.0, 6.0, 6.0)
    assert total([(values[:0], 0)]) == Estimate(0.0, 0.0, 0.0)
    assert share(3, 4, 4) == Estimate(0.75, 0.75, 0.75)
    none = share(0, 100, 10**9)
    assert none.low == 0
    assert none.high == pytest.approx(1.96**2 / (100 + 1.96**2))
    unknown = total([(values[:0], 10)])
    assert unknown.low == 0
    assert unknown.high == 10 * PAGE_SIZE


def mixed(rng: np.random.Generator) -> Bytes:
    """100 zero pages, 300 copies of 30 contents, 900 of bytes of which some compress."""
    own = rng.integers(0, 256, (900, PAGE_SIZE), dtype=np.uint8)
    own[:500] %= 4
    for at in range(100):
        own[at] = own[400]
        own[at, at * 8 : at * 8 + 8] = 0
    copies = np.repeat(rng.integers(0, 9, (30, PAGE_SIZE), dtype=np.uint8), 10, axis=0)
    return np.concatenate((np.zeros((100, PAGE_SIZE), np.uint8), copies, own))


def test_a_sample_of_all_pages_is_exact() -> None:
    pages = mixed(np.random.default_rng(3))
    result = compress(look_at(Pages(pages)), 10_000)
    assert (result.zero_pages, result.freed_pages, result.kept_pages) == (100, 270, 930)
    assert result.merging_bytes == 370 * PAGE_SIZE
    assert result.sampled_pages == 1200
    unique = np.unique(pages[100:], axis=0)
    assert result.near.share.value == pytest.approx(np.mean(brute(unique, unique)))
    assert result.near.share.value > 0.1
    for one in result.compressors:
        method = compressors()[one.name]
        sizes = compressed_bytes(unique, method)
        waste = unfilled_bytes(sizes)
        left = held_bytes(sizes).sum() + waste
        everything = held_bytes(compressed_bytes(pages, method)).sum() + waste
        assert one.beside.value == pytest.approx(930 * PAGE_SIZE - left)
        assert one.beside.low == one.beside.value == one.beside.high
        assert one.both.value == pytest.approx(1300 * PAGE_SIZE - left)
        assert one.alone.value == pytest.approx(1300 * PAGE_SIZE - everything)


def test_samples_hold_the_exact_figures() -> None:
    pages = mixed(np.random.default_rng(3))
    found = look_at(Pages(pages))
    exact, hits, tries = compress(found, 10_000), 0, 0
    for seed in range(20):
        drawn = compress(found, 300, seed=seed)
        assert drawn.sampled_pages == 300
        for ours, true in zip(drawn.compressors, exact.compressors, strict=True):
            for name in ("alone", "both"):
                one, other = getattr(ours, name), getattr(true, name)
                # Of fewer pages, fewer classes are in use: up to half a chain for each.
                hits += one.low - 300_000 <= other.value <= one.high + 300_000
                tries += 1
        tries += 1
        hits += drawn.near.share.low <= exact.near.share.value <= drawn.near.share.high
    assert hits >= 0.93 * tries


def test_domains_are_compared_apart() -> None:
    page = np.random.default_rng(1).integers(0, 256, (1, PAGE_SIZE), dtype=np.uint8)
    other = page.copy()
    other[0, 0] ^= 1
    apart = compress(look_at(Pages(page, "a"), Pages(other, "b"), Pages(page, "b")))
    assert (apart.kept_pages, apart.freed_pages) == (3, 0)
    assert apart.near.share.value == pytest.approx(2 / 3)
    one = compress(look_at(Pages(page), Pages(other), Pages(page)))
    assert (one.kept_pages, one.freed_pages) == (2, 1)
    assert one.near.share.value == 1


def test_pages_that_have_changed_count_and_those_that_are_gone_do_not() -> None:
    source = Pages(np.random.default_rng(1).integers(0, 256, (10, PAGE_SIZE), dtype=np.uint8))
    found = look_at(source)
    source.pages[:3] = 0
    source.pages[4] ^= 1
    result = compress(found)
    assert (result.sampled_pages, result.lost_pages, result.changed_pages) == (7, 3, 1)
    source.pages[:] = 0
    with pytest.raises(PagemergeError, match="look again"):
        compress(found)


def test_nothing_but_zeros() -> None:
    result = compress(look_at(Pages(np.zeros((5, PAGE_SIZE), np.uint8))))
    assert (result.zero_pages, result.kept_pages, result.sampled_pages) == (5, 0, 0)
    assert all(it.both == Estimate(*[5.0 * PAGE_SIZE] * 3) for it in result.compressors)
