"""Which blocks stay huge pages, which are merged, and which become huge pages again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.hub.decide import blocks, plan
from pagemerge.hub.model import BLOCK, NO_SLOT, ZERO_SLOT, Candidates, Layout
from pagemerge.hub.regions import Region
from pagemerge.model import PAGE_SIZE

PRICE = 4


@pytest.mark.parametrize(
    ("start", "pages", "wanted"),
    [
        (0, 3 * BLOCK, (0, 3)),
        (PAGE_SIZE, 3 * BLOCK, (BLOCK - 1, 2)),
        (5 * blocks.BLOCK_SIZE - PAGE_SIZE, BLOCK + 1, (1, 1)),
        (5 * blocks.BLOCK_SIZE - PAGE_SIZE, BLOCK, (1, 0)),
        (blocks.BLOCK_SIZE // 2, 7, (BLOCK // 2, 0)),
    ],
)
def test_blocks_start_at_multiples_of_their_size(
    start: int, pages: int, wanted: tuple[int, int]
) -> None:
    assert blocks.extent(start, pages) == wanted


def spared(
    rows: list[tuple[int, int, bool]], dear: set[int], already: int = 0, price: int = PRICE
) -> list[int]:
    """The candidates that are left alone; each is (block, group, saves by itself)."""
    block, group, saves = (np.array(it) for it in zip(*rows, strict=True))
    found = blocks.spared(
        block,
        group,
        saves.astype(np.bool_),
        np.isin(block, list(dear)),
        np.full(len(block), already, np.uint16),
        price,
    )
    return np.flatnonzero(found).tolist()


def test_a_block_is_merged_where_the_price_is_reached() -> None:
    poor = [(1, -1, True)] * (PRICE - 1)
    rich = [(2, -1, True)] * PRICE
    assert spared(poor + rich, {1, 2}) == [0, 1, 2]
    assert spared(poor + rich, {2}) == [], "block 1 would have no huge page anyway"
    assert spared(poor + rich, {1, 2}, already=1) == []
    assert spared(poor + rich, {1, 2}, price=0) == []


def test_a_page_whose_equals_are_left_alone_saves_nothing() -> None:
    """Group 0 lies in blocks 1 and 2: once block 1 is spared, its page in block 2 is alone, and
    block 2 is below the price."""
    one = [(1, 0, False)]
    two = [(2, 0, False)] + [(2, -1, True)] * (PRICE - 1)
    assert spared(one + two, {1, 2}) == [0, 2, 3, 4]
    assert spared([*one, *two, (3, 0, False)], {1, 2}) == [0]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 5), st.booleans()), min_size=1),
    st.sets(st.integers(0, 3)),
    st.integers(0, 6),
)
def test_what_is_merged_is_worth_it_or_costs_no_huge_page(
    rows: list[tuple[int, int, bool]], dear: set[int], price: int
) -> None:
    rows = sorted((block, group, saves and group < 0) for block, group, saves in rows)
    left = set(spared(rows, dear, price=price))
    assert all(rows[at][0] in dear for at in left)
    rest = [row for at, row in enumerate(rows) if at not in left]
    groups = [group for _, group, _ in rest]
    worth = [
        block for block, group, saves in rest if saves or (group >= 0 and groups.count(group) > 1)
    ]
    for block in dear & set(worth):
        assert worth.count(block) >= price, "the rounds were not enough, or the count is wrong"


def candidates(*parts: tuple[int, int, int]) -> Candidates:
    """Pages of clients, each part (client, first page, pages); all contents differ."""
    client = np.concatenate([np.full(pages, who, np.uint32) for who, _, pages in parts])
    page = np.concatenate([np.arange(first, first + pages) for _, first, pages in parts])
    address = page.astype(np.uint64) * np.uint64(PAGE_SIZE)
    return Candidates(client, address, np.arange(len(client), dtype=np.uint64) + 100)


def test_whole_blocks_are_found_among_the_donors() -> None:
    found = candidates((0, 7, BLOCK), (0, 2 * BLOCK, BLOCK), (1, 3 * BLOCK, BLOCK + 3))
    donors = np.arange(len(found.client))
    dear = np.ones(len(donors), np.bool_)
    chosen = np.flatnonzero(blocks.whole(found, donors, dear))
    assert chosen.tolist() == [*range(BLOCK, 3 * BLOCK)]
    gap = np.delete(donors, BLOCK + 5)
    assert np.flatnonzero(blocks.whole(found, gap, dear)).tolist() == [
        *range(2 * BLOCK - 1, 3 * BLOCK - 1)
    ]
    assert not blocks.whole(found, donors, ~dear).any()


def test_whole_blocks_get_the_first_slots() -> None:
    """Two clients with the same pages: three pages, and a block that lies behind them."""
    one = candidates((0, BLOCK - 3, BLOCK + 3), (1, BLOCK - 3, BLOCK + 3))
    half = len(one.client) // 2
    digest = np.tile(np.arange(half, dtype=np.uint64) + 100, 2)
    found = Candidates(one.client, one.address, digest)
    members = np.stack((np.arange(half), np.arange(half) + half), axis=1).ravel()
    starts = np.arange(0, 2 * half + 1, 2)
    known = np.full(2 * half, NO_SLOT, np.uint32)
    dear = np.ones(2 * half, np.bool_)
    layout = plan.lay_out(found, known, members, starts, 1000, dear)
    assert layout.whole == BLOCK
    assert layout.slot[3:half].tolist() == [*range(1000, 1000 + BLOCK)]
    assert layout.slot[:3].tolist() == [1000 + BLOCK, 1001 + BLOCK, 1002 + BLOCK]
    assert (layout.slot[:half] == layout.slot[half:]).all()
    assert layout.slot[layout.donors].tolist() == [*range(1000, 1000 + half)]
    whose = found.client[layout.donors].astype(np.uint64)
    assert blocks.leading(found.address[layout.donors], whose, 8) == 1
    assert blocks.leading(found.address[layout.donors[1:]], whose[1:], 8) == 0
    assert blocks.leading(found.address[layout.donors], whose, 0) == 0
    plain = plan.lay_out(found, known, members, starts, 1000)
    assert plain.whole == 0 and plain.slot[:half].tolist() == [*range(1000, 1000 + half)]


@given(st.sets(st.integers(0, 3 * BLOCK + 9), max_size=3))
def test_a_layout_knows_which_blocks_are_whole_after_a_quota(refused: set[int]) -> None:
    count = 3 * BLOCK + 10
    layout = Layout(np.arange(count, dtype=np.uint32), np.arange(count), 0, 3 * BLOCK)
    admitted = ~np.isin(np.arange(count), list(refused))
    found = layout.only(admitted)
    lead = found.donors[: found.whole]
    assert lead.tolist() == [*range(found.whole)]
    assert found.whole == 3 * BLOCK or found.whole <= min(refused) < found.whole + BLOCK


def region(start: int = 0, pages: int = 2 * BLOCK) -> Region:
    """A region of which all pages were seen twice."""
    made = Region.of(start, pages, huge=True)
    made.pages.digest[:] = 7
    made.pages.quiet[:] = blocks.SEEN
    return made


def due(region: Region) -> tuple[list[bool], list[bool]]:
    found = blocks.due(region.pages, *blocks.extent(region.start, len(region)), PRICE)
    return found.anonymous.tolist(), found.mapping.tolist()


def test_complete_blocks_that_were_seen_can_be_huge() -> None:
    assert due(region()) == ([True, True], [False, False])
    one = region()
    one.pages.quiet[1] = blocks.SEEN - 1
    one.pages.digest[5] = 0
    assert due(one) == ([False, False], [False, False])


def test_a_block_with_pages_on_slabs_stays_small() -> None:
    one = region()
    one.pages.under[5] = 3  # it was written since
    assert due(one)[0] == [False, True]


def test_few_zero_pages_come_back() -> None:
    one = region()
    for pages, wanted in ((PRICE // 2 - 1, True), (PRICE // 2, False)):
        one.pages.slot[:pages], one.pages.digest[:pages] = ZERO_SLOT, 0
        assert due(one)[0] == [wanted, True]


def test_a_block_that_maps_a_block_of_slots_can_be_huge() -> None:
    one = region()
    part = slice(BLOCK, 2 * BLOCK)
    one.pages.slot[part] = one.pages.under[part] = np.arange(BLOCK) + 40
    one.pages.digest[part] = 0
    assert due(one) == ([True, False], [False, True])
    one.pages.slot[BLOCK + 9] = NO_SLOT
    assert due(one)[1] == [False, False]


def test_the_blocks_of_a_region_that_starts_anywhere() -> None:
    one = region(start=PAGE_SIZE * (BLOCK - 100), pages=2 * BLOCK + 50)
    assert due(one) == ([True], [False])
    one.pages.quiet[1] = 0
    assert due(one) == ([False], [False])


def test_a_block_that_was_merged_is_not_known_to_be_huge() -> None:
    one = region(start=PAGE_SIZE * (BLOCK - 100), pages=3 * BLOCK)
    one.states[:], one.stale = blocks.HUGE, False
    one.split(np.array([3, 99]))
    assert (one.stale, one.states.tolist()) == (True, [blocks.HUGE] * 2)
    one.split(np.array([100 + BLOCK, 3 * BLOCK - 1]))
    assert one.states.tolist() == [blocks.HUGE, blocks.UNKNOWN]
    Region.of(0, 5).split(np.array([3]))


def test_what_is_wished_is_noted_once() -> None:
    one = Region.of(0, 3 * BLOCK)
    assert len(one.states) == 0
    one.stale = False
    one.wish(False)
    assert not one.stale
    one.wish(True)
    assert (one.stale, len(one.states)) == (True, 3)
