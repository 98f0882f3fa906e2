"""Which slots leave the index when slabs have been emptied."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.hub.decide import compact

U32 = npt.NDArray[np.uint32]


@st.composite
def emptied(draw: st.DrawFn) -> tuple[list[compact.Extent], U32, U32, U32, set[int]]:
    """Slabs of a domain, the sharers of each slot before and after clients moved, the slots that
    were copied, and the slabs of which the hub does not know who maps what."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    bases = np.cumsum([0, *sizes]).tolist()
    slabs = [compact.Extent(9 + it, bases[it], size) for it, size in enumerate(sizes)]
    total = bases[-1]
    counts = st.lists(st.integers(0, 2), min_size=total, max_size=total)
    before, after = (np.array(draw(counts), np.uint32) for _ in range(2))
    dying = draw(st.lists(st.sampled_from(slabs), unique=True))
    unknown = draw(st.sets(st.sampled_from([it.slab for it in slabs])))
    return dying, before, after, compact.live_slots(dying, before), unknown


@given(emptied())
def test_what_somebody_maps_stays_in_the_index(
    given: tuple[list[compact.Extent], U32, U32, U32, set[int]],
) -> None:
    dying, before, after, old, unknown = given
    gone = set(compact.useless(dying, after, old, unknown).tolist())
    for slab in dying:
        for slot in range(slab.base, slab.base + slab.pages):
            copied, mapped = before[slot] > 0, after[slot] > 0
            # A copy is found in place of what was copied. What was dead may live again.
            assert (slot in gone) == (copied or not (mapped or slab.slab in unknown))
    inside = {slot for it in dying for slot in range(it.base, it.base + it.pages)}
    assert gone <= inside
