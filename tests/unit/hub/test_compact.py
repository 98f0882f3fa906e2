"""Which slots leave the index when slabs have been emptied."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.hub.decide import compact

U32 = npt.NDArray[np.uint32]


@st.composite
def emptied(draw: st.DrawFn) -> tuple[list[compact.Extent], U32, set[int]]:
    """Slabs of a domain that are to be emptied, the sharers of each slot, and the slabs of which
    the hub does not know who maps what."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    bases = np.cumsum([0, *sizes]).tolist()
    slabs = [compact.Extent(9 + it, bases[it], size) for it, size in enumerate(sizes)]
    counts = draw(st.lists(st.integers(0, 2), min_size=bases[-1], max_size=bases[-1]))
    dying = draw(st.lists(st.sampled_from(slabs), unique=True))
    unknown = draw(st.sets(st.sampled_from([it.slab for it in slabs])))
    return dying, np.array(counts, np.uint32), unknown


@given(emptied())
def test_what_somebody_may_map_stays_in_the_index(
    given: tuple[list[compact.Extent], U32, set[int]],
) -> None:
    dying, counts, unknown = given
    gone = compact.dead_slots(dying, counts, unknown).tolist()
    assert sorted(gone) == sorted(
        slot
        for slab in dying
        for slot in range(slab.base, slab.base + slab.pages)
        if counts[slot] == 0 and slab.slab not in unknown
    )
