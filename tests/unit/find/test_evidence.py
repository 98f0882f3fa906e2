"""Duplicates of huge pages that are too few to be worth them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.find.evidence import spare_huge


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans())),
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(1, 4),
)
def test_a_huge_page_below_the_price_has_no_duplicates(
    pages: list[tuple[int, bool]], huge: set[int], price: int
) -> None:
    pages = sorted(pages)
    gain = np.array([float(duplicate) for _, duplicate in pages], np.float32)
    block = np.array([block for block, _ in pages], np.uint64)
    spare_huge(gain, block, np.array(sorted(huge), np.uint64), price)
    for at, (inside, duplicate) in enumerate(pages):
        poor = inside in huge and pages.count((inside, True)) < price
        assert bool(gain[at]) == (duplicate and not poor)
