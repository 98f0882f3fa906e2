"""The latency budget of the hub: how long it rests, and how much it does at once."""

from __future__ import annotations

import asyncio
import time
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge import _core
from pagemerge.hub import gentle as turns
from pagemerge.hub import wire
from pagemerge.hub.decide import gentle
from pagemerge.hub.gentle import Gentle
from pagemerge.model import PAGE_SIZE

U64, U32 = np.uint64, np.uint32


def test_nobody_waits_so_nobody_rests() -> None:
    assert gentle.rest(took=0.005, stalled=0.0, share=0.1) == 0.0
    assert gentle.rest(took=0.010, stalled=0.001, share=0.1) == 0.0


def test_others_wait_for_no_more_than_their_share_of_the_time() -> None:
    rest = gentle.rest(took=0.002, stalled=0.001, share=0.1)
    assert 0.001 / (0.002 + rest) == pytest.approx(0.1)


def test_merging_goes_on_however_busy_the_host_is() -> None:
    assert gentle.rest(took=5.0, stalled=5.0, share=0.001) == gentle.LONGEST


def test_requests_become_as_large_as_a_client_can_carry_out_in_time() -> None:
    pages = 512
    for _ in range(10):  # 2 us a page
        pages = gentle.lot(pages, pages, pages * 2e-6)
    assert pages == pytest.approx(gentle.TARGET / 2e-6, rel=0.01)
    for _ in range(10):  # scattered: 100 us a page
        pages = gentle.lot(pages, pages, pages * 100e-6)
    assert pages == gentle.FEWEST


def test_a_small_quick_request_tells_nothing_about_larger_ones() -> None:
    assert gentle.lot(512, asked=3, took=1e-6) == 512


def test_one_slow_answer_halves_the_next_request_at_most() -> None:
    assert gentle.lot(1024, asked=1024, took=10.0) == 512


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2000)), max_size=20), st.integers(1, 700)
)
def test_split_runs_map_the_same_pages(runs: list[tuple[int, int]], most: int) -> None:
    slabs = (0, 77, _core.WIRE_OWN)  # zeros, a slab, pages that leave a slab
    kinds, pages = [slabs[it] for it, _ in runs], [it for _, it in runs]
    starts = (np.cumsum([0, *pages])[:-1] * PAGE_SIZE).astype(U64)
    slots = np.array([1000 * at if slab == 77 else 0 for at, slab in enumerate(kinds)], U32)
    rows = wire.runs(starts, np.array(kinds, U64), slots, np.array(pages, np.int64))
    split = gentle.split(rows, most)
    assert _pages(split) == _pages(rows)
    assert len(split) == 0 or split["pages"].max() <= most


def _pages(rows: np.ndarray) -> list[tuple[int, int, int]]:
    """Address, slab and slot of each page."""
    found = []
    for address, slab, slot, pages in rows.tolist():
        moves = slab == 77
        found += [(address + it * PAGE_SIZE, slab, slot + it * moves) for it in range(pages)]
    return found


def test_one_slice_at_a_time_and_a_rest_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait all the time, as the kernel tells it."""
    monkeypatch.setattr(turns, "stalled_seconds", time.monotonic)
    budget = Gentle(0.1)
    spans: list[tuple[float, float]] = []

    async def work() -> None:
        async with budget.slice(elsewhere=True):
            began = time.monotonic()
            await asyncio.sleep(0.01)
            spans.append((began, time.monotonic()))

    async def both() -> None:
        await asyncio.gather(work(), work())

    asyncio.run(both())
    (_, end), (start, _) = spans
    assert start - end >= 0.08  # 10 ms of waiting are a tenth of 100 ms


def test_without_a_budget_all_run_at_once() -> None:
    budget, inside = Gentle(0.0), 0

    async def work() -> None:
        nonlocal inside
        async with budget.slice():
            inside += 1
            while inside < 2:
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.wait_for(asyncio.gather(work(), work()), 10)

    asyncio.run(both())
    assert inside == 2


def test_huge_pages_that_take_the_kernel_too_long_are_not_made_for_a_while() -> None:
    budget = Gentle(0.1)
    assert budget.longest_block == turns.LONGEST_BLOCK
    assert budget.blocks(8) == 8
    budget.note_blocks(8, 8)
    assert budget.blocks(8) == 8
    budget.note_blocks(8, 1)
    assert [budget.blocks(8) for _ in range(turns.SMALL + 1)] == [0] * turns.SMALL + [8]


def test_without_a_budget_all_blocks_may_be_huge_pages() -> None:
    budget = Gentle(0.0)
    budget.note_blocks(8, 1)
    assert (budget.longest_block, budget.blocks(8)) == (inf, 8)
