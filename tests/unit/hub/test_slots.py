"""Records in little memory say what plain arrays would say. The oracle of memory is the kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.hub.model import BLOCK, NO_SLOT, OWN_SLOT, PAGE_BYTES, ZERO_SLOT
from pagemerge.hub.records import forget
from pagemerge.hub.regions import Region
from pagemerge.hub.slots import GROUP, LARGE, Slots
from pagemerge.model import ABSENT, PAGE_SIZE

VALUES = st.sampled_from([0, 1, 7, NO_SLOT, ZERO_SLOT])
COUNTS = st.sampled_from([1, 5, LARGE - 1, LARGE, LARGE + 1, 2 * LARGE, 2 * LARGE + GROUP - 1])
WRITES = st.lists(
    st.tuples(st.integers(0, 3 * LARGE), st.integers(1, 2 * GROUP), VALUES, st.booleans()),
    max_size=12,
)


@given(COUNTS, WRITES)
def test_slots_say_what_was_written(count: int, writes: list[tuple[int, int, int, bool]]) -> None:
    region = Region.of(0, count)
    slots, plain = region.pages.slot, np.full(count, NO_SLOT, np.uint32)
    for first, pages, value, settles in writes:
        part = np.arange(first % count, min(first % count + pages, count))
        values = np.where(value < OWN_SLOT, value + part, value).astype(np.uint32)
        slots[part], plain[part] = values, values
        if settles:
            region.settle()
        assert (slots[:] == plain).all()
        assert (slots[part] == plain[part]).all()
        assert (slots[first % count : count] == plain[first % count :]).all()
        assert int(slots[first % count]) == int(plain[first % count])
        mapped = plain[plain < OWN_SLOT]
        found = slots.numbers()
        assert (found[found < OWN_SLOT] == mapped).all()
    assert len(slots) == count


def test_what_says_the_same_of_many_pages_takes_no_memory() -> None:
    region = Region.of(0, 16 * GROUP)
    pages = region.pages
    assert region.bytes == 0
    pages.digest[:], pages.standing[:] = np.arange(1, 16 * GROUP + 1), 1
    region.settle()
    assert region.bytes == 9 * 16 * GROUP
    pages.digest[:], pages.standing[:] = ABSENT, 0
    pages.slot[:] = ZERO_SLOT
    pages.slot[0:10] = np.arange(10)
    pages.under[0:10] = np.arange(10)
    region.settle()
    assert region.bytes == 2 * PAGE_SIZE
    pages.slot[0:10], pages.under[0:10] = ZERO_SLOT, NO_SLOT
    region.settle()
    assert region.bytes == 0
    assert (pages.slot[:] == ZERO_SLOT).all()
    assert (pages.under[:] == NO_SLOT).all()
    assert len(pages.slot.numbers()) == 0


def test_the_kernel_gets_the_memory_back() -> None:
    code = f"""
import numpy as np
from pathlib import Path
from pagemerge.hub.regions import Region
def used():
    return int(Path("/proc/self/statm").read_text().split()[1]) * {PAGE_SIZE}
pages = 1 << 22
start = used()
region = Region.of(0, pages)
made = used()
region.pages.digest[:], region.pages.standing[:] = 7, 1
region.pages.slot[:], region.pages.under[:] = {ZERO_SLOT}, {NO_SLOT}
full = used()
region.pages.digest[:], region.pages.standing[:] = 0, 0
region.settle()
print(made - start, full - start, used() - start)
"""
    # As the hub has it: libc returns what is freed (mallopt(3)).
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "8388608"}
    said = subprocess.check_output([sys.executable, "-c", code], text=True, env=env)
    made, full, settled = map(int, said.split())
    pages = 1 << 22
    assert made < pages
    assert full > 12 * pages, "digests, looks and slots"
    assert settled < pages, "bytes for each page"


def test_what_was_seen_is_forgotten_and_what_is_merged_is_not() -> None:
    region = Region.of(0, 4 * LARGE)
    pages = region.pages
    pages.digest[:], pages.standing[:] = 7, 3
    pages.slot[0:100], pages.under[0:100] = np.arange(100), np.arange(100)
    pages.quiet[: len(pages.quiet) // 2] = 4
    forget(region, 4)
    half = 2 * LARGE
    assert not pages.digest[:half].any()
    assert not pages.standing[:half].any()
    assert (pages.digest[half:] == 7).all()
    assert (pages.standing[half:] == 3).all()
    assert pages.slot[0:100].tolist() == pages.under[0:100].tolist() == list(range(100))
    assert region.bytes == 9 * half + 2 * PAGE_SIZE
    forget(region, 0)
    assert region.bytes == 2 * PAGE_SIZE
    assert (pages.slot[100:] == NO_SLOT).all()


@pytest.mark.parametrize("count", [1, BLOCK, LARGE - 1])
def test_small_regions_have_plain_records(count: int) -> None:
    region = Region.of(0, count)
    region.settle()
    assert region.bytes == PAGE_BYTES * count
    assert len(Slots(count)[:]) == count
