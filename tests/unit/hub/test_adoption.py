"""What the hub learns of a client's mappings: real mappings of a real slab, of this process."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pagemerge import _core
from pagemerge.hub.adoption import MOST_INTERRUPTED, adopt_mappings
from pagemerge.hub.model import NO_SLOT, OWN_SLOT, ZERO_SLOT
from pagemerge.hub.regions import Region
from pagemerge.hub.store import Store
from pagemerge.model import PAGE_SIZE
from tests.support.ends import Ends, run

PAGES = 12
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
MAP_FIXED = 0x10

SLOT = st.integers(0, PAGES - 1)
PLACES = st.lists(st.none() | SLOT, min_size=PAGES, max_size=PAGES)
"""Which place of the slab each page maps, if any."""
RECORD = st.sampled_from([(NO_SLOT, NO_SLOT), (ZERO_SLOT, NO_SLOT)]) | SLOT.flatmap(
    lambda slot: st.sampled_from([(slot, slot), (NO_SLOT, slot)])
)
"""What the hub believes of a page: its slot, and the slot under it."""


@contextmanager
def memory(store: Store, places: list[int | None]) -> Iterator[int]:
    """Memory whose pages map these places of a slab; yields its address."""
    source = np.arange(2 * PAGES * PAGE_SIZE // 8, dtype=np.uint64) + 1
    start = source.ctypes.data + -source.ctypes.data % PAGE_SIZE
    donors, zero = [_core.Peer(os.getpid())], np.zeros(1, np.uint64)
    built = store.build(donors, zero, np.array([start], np.uint64), np.array([PAGES], np.uint64))
    slab = store.add(*built[:3], np.full(PAGES, os.getpid(), np.uint32))
    with mmap.mmap(-1, PAGES * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        base = ctypes.addressof(view := ctypes.c_char.from_buffer(held))
        for page, place in enumerate(places):
            if place is not None:
                at, flags = base + page * PAGE_SIZE, mmap.MAP_PRIVATE | MAP_FIXED
                both = mmap.PROT_READ | mmap.PROT_WRITE
                file = slab.descriptor, place * PAGE_SIZE
                assert LIBC.mmap(at, PAGE_SIZE, both, flags, *file) == at
        yield base
        del view
    store.drop([slab.id])


def believing(base: int, records: list[tuple[int, int]]) -> Region:
    """A region of which the hub believes this."""
    region = Region.of(base, len(records))
    region.pages.slot[:], region.pages.under[:] = np.array(records, np.uint32).T
    return region


def expected(place: int | None, record: tuple[int, int]) -> tuple[int, int]:
    """The record of a page that maps this place: it stays if it stands there, or on no slot."""
    believed, under = record
    if place is None:
        return (believed if under == NO_SLOT else NO_SLOT), NO_SLOT
    return (believed if under == place else place), place


@given(PLACES, st.lists(RECORD, min_size=PAGES, max_size=PAGES), st.integers(1, PAGES - 1))
def test_the_records_say_what_is_mapped(
    places: list[int | None], records: list[tuple[int, int]], cut: int
) -> None:
    """Whatever they said before; but pages that were written since stay so."""

    async def test(ends: Ends) -> None:
        client, store = ends.client, Store()
        with memory(store, places) as base:
            parts = [
                believing(base, records[:cut]),
                believing(base + cut * PAGE_SIZE, records[cut:]),
            ]
            client.regions = dict(enumerate(parts))
            client.doubt.fewer = True
            assert client.doubt.is_due
            await adopt_mappings(client, store)
        slot = [it for part in parts for it in part.pages.slot[:].tolist()]
        under = [it for part in parts for it in part.pages.under[:].tolist()]
        wanted = [expected(*it) for it in zip(places, records, strict=True)]
        assert list(zip(slot, under, strict=True)) == wanted
        pairs = zip(records, places, strict=True)
        lost = sum(believed < OWN_SLOT and place is None for (believed, _), place in pairs)
        assert client.separations == lost
        assert not client.doubt.is_due
        client.doubt.fewer = True
        assert not client.doubt.is_due, "not at once again, however often a client says so"
        client.doubt.more = True
        assert client.doubt.is_due

    run(test)


def test_what_may_be_merged_meanwhile_is_not_forgotten() -> None:
    async def test(ends: Ends) -> None:
        client, store = ends.client, Store()
        with memory(store, [0, 1, *[None] * (PAGES - 2)]) as base:
            client.regions = {1: believing(base, [(5, 5)] * PAGES)}
            client.births = {1: None}  # it may map pages at any moment
            client.doubt.more = True
            for attempt in range(MOST_INTERRUPTED + 1):
                assert client.doubt.is_due, attempt
                await adopt_mappings(client, store)
            assert not client.doubt.is_due
            assert client.regions[1].pages.slot[:].tolist() == [0, 1, *[5] * (PAGES - 2)]
            client.births.clear()
            client.doubt.more = True
            await adopt_mappings(client, store)
            assert client.regions[1].pages.slot[:].tolist() == [0, 1, *[NO_SLOT] * (PAGES - 2)]

    run(test)
