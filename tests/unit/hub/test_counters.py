"""Counting what regions map, in lots; and whose turn it is to be told of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.hub import viewers
from pagemerge.hub.decide import counters
from pagemerge.hub.model import BLOCK, BLOCK_BYTES, NO_SLOT, OWN_SLOT, PAGE_BYTES, ZERO_SLOT
from pagemerge.hub.pages import Pages
from pagemerge.hub.regions import Region
from pagemerge.model import ABSENT

LOOKS = 2
KINDS = st.sampled_from([0, 1, 2, 3, 7, 8, NO_SLOT, ZERO_SLOT, OWN_SLOT])
PAGE = st.tuples(KINDS, st.integers(0, 1), st.integers(0, 3))
REGIONS = st.lists(st.lists(PAGE, min_size=1, max_size=20), max_size=12)


def region(rows: list[tuple[int, int, int]]) -> Pages:
    pages = Region.of(0, len(rows)).pages
    pages.slot[:], pages.digest[:], pages.standing[:] = zip(*rows, strict=True)
    return pages


def plainly(regions: list[list[tuple[int, int, int]]]) -> counters.Counts:
    """Page by page, as ``Counts`` says."""
    merged = zero = unshared = volatile = runs = 0
    for rows in regions:
        before = None
        for slot, digest, looks in rows:
            mapped = slot not in (NO_SLOT, ZERO_SLOT, OWN_SLOT)
            merged += mapped
            zero += slot == ZERO_SLOT
            if slot == NO_SLOT and digest != ABSENT:
                unshared += looks >= LOOKS
                volatile += looks < LOOKS
            runs += mapped and slot - 1 != before
            before = slot if mapped else None
    return counters.Counts(sum(map(len, regions)), merged, zero, unshared, volatile, runs)


@given(REGIONS, st.integers(1, 9), st.integers(1, 4))
def test_lots_count_as_pages_one_by_one(
    rows: list[list[tuple[int, int, int]]], pages: int, regions: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(counters, "MOST_PAGES", pages)
        patched.setattr(counters, "MOST_REGIONS", regions)
        found = counters.Counts()
        for lot in counters.lots(map(region, rows)):
            assert len(lot.slot) == len(lot.before) == len(lot.digest) == len(lot.standing)
            assert len(lot.slot) <= 2 * pages
            found += counters.tally(lot, LOOKS)
    assert found == plainly(rows)


def test_many_small_regions_are_not_counted_one_by_one() -> None:
    small = [Region.of(0, 1).pages for _ in range(4_000)]

    def took(together: int) -> float:
        """Processor time to count all, so many regions at a time."""
        began, found = time.process_time(), counters.Counts()
        for first in range(0, len(small), together):
            for lot in counters.lots(small[first : first + together]):
                found += counters.tally(lot, LOOKS)
        assert found.pages == len(small)
        return time.process_time() - began

    # The best of some runs: what else the host does slows down only some of them.
    assert 4 * min(took(len(small)) for _ in range(5)) < min(took(1) for _ in range(5))


def test_what_is_remembered_of_a_page_and_of_a_block() -> None:
    for count in (1, BLOCK, 3 * BLOCK):
        region = Region.of(0, count)
        pages = region.pages
        by_block = sum(it.nbytes for it in (pages.quiet, pages.wait, pages.empty, pages.looked))
        assert region.bytes == count * PAGE_BYTES
        assert by_block == len(pages.quiet) * BLOCK_BYTES


def test_what_many_ask_is_worked_out_once_and_charged() -> None:
    begun, slept = [], []

    def count() -> Generator[None, None, Any]:
        begun.append(time.monotonic())
        time.sleep(0.02)
        slept.append(time.monotonic() - begun[-1])
        yield
        return {"turn": len(begun)}

    async def ask() -> None:
        these, other = viewers.Viewers(), asyncio.Event()
        asyncio.get_running_loop().call_soon(other.set)
        first = [asyncio.create_task(these.answer(count, 2)) for _ in range(100)]
        assert set(await asyncio.gather(*first)) == {b'{"turn":1}'}
        assert other.is_set(), "others have their turn in between"
        before, wait, after = time.monotonic(), these.turns.wait, time.monotonic()
        # One of two users may take a twentieth of the loop's time.
        assert 20 * slept[0] <= after + wait - begun[0]
        assert wait < 20 * slept[0] + 1.1
        assert await these.answer(count, 2) == b'{"turn":2}', "not what was so before"
        assert begun[1] >= before + wait

    asyncio.run(ask())
    assert len(begun) == 2


def test_an_answer_that_fails_fails_for_all_and_the_next_one_is_begun() -> None:
    def count() -> Generator[None, None, Any]:
        yield
        raise ZeroDivisionError

    async def ask() -> None:
        these = viewers.Viewers()
        for _ in range(2):
            asked = [asyncio.create_task(these.answer(count, 1)) for _ in range(3)]
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(it) for it in found] == [ZeroDivisionError] * 3

    asyncio.run(ask())


@given(REGIONS, st.integers(1, 9), st.integers(1, 4))
def test_sharers_are_counted_whatever_the_regions_sizes(
    rows: list[list[tuple[int, int, int]]], pages: int, regions: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(counters, "MOST_PAGES", pages)
        patched.setattr(counters, "MOST_REGIONS", regions)
        found = counters.sharers([region(it).slot[:] for it in rows], 8)
    told = [slot for it in rows for slot, _, _ in it]
    assert found.tolist() == [told.count(slot) for slot in range(8)]
