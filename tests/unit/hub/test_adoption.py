"""What the hub learns of a client's mappings: real mappings of a real slab, of this process."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge import _core
from pagemerge.errors import HubError
from pagemerge.hub import wire
from pagemerge.hub.adoption import MOST_INTERRUPTED, adopt_mappings
from pagemerge.hub.client import Client
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
        try:
            yield base
        finally:
            del view  # or it could not be closed
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
            client.doubt.note(fewer=True)
            await again(client, store)
        slot = [it for part in parts for it in part.pages.slot[:].tolist()]
        under = [it for part in parts for it in part.pages.under[:].tolist()]
        wanted = [expected(*it) for it in zip(places, records, strict=True)]
        assert list(zip(slot, under, strict=True)) == wanted
        pairs = zip(records, places, strict=True)
        lost = sum(believed < OWN_SLOT and place is None for (believed, _), place in pairs)
        assert client.separations == lost
        assert not client.doubt.fewer
        client.doubt.note(fewer=True)
        assert not client.doubt.is_due, "not at once again, however often a client says so"

    run(test)


async def again(client: Client, store: Store) -> None:
    """Adopt as soon as it is due."""
    while not client.doubt.is_due:
        await asyncio.sleep(0.005)
    await adopt_mappings(client, store)


FIVES = [(NO_SLOT, NO_SLOT), *[(5, 5)] * (PAGES - 1)]
PLACES_OF_TWO: list[int | None] = [0, 1, *[None] * (PAGES - 2)]


@pytest.mark.parametrize("what", ["birth", "plan"])
def test_what_may_be_merged_meanwhile_is_not_forgotten(what: str) -> None:
    """Nor overwritten by what was mapped before: it may be what was read that is old."""

    async def test(ends: Ends) -> None:
        client, store = ends.client, Store()
        with memory(store, PLACES_OF_TWO) as base:
            client.regions = {1: believing(base, FIVES)}
            client.doubt.note(more=True)
            if what == "birth":
                client.births = {1: None}
            else:  # a plan that was sent before, and is carried out now
                client.link.ask(wire.Kind.MERGE)
            for _ in range(MOST_INTERRUPTED):
                await again(client, store)
                assert client.doubt.more and not client.is_known
            await again(client, store)
            assert client.doubt.fewer and not client.doubt.more, "it makes do with what it knows"
            assert client.regions[1].pages.slot[:].tolist() == [0, *[5] * (PAGES - 1)]
            if what == "birth":
                client.births.clear()
                await again(client, store)
                assert client.is_known and not client.doubt.fewer
                assert client.regions[1].pages.slot[:].tolist() == [
                    NO_SLOT if it is None else it for it in PLACES_OF_TWO
                ]

    run(test)


@pytest.mark.parametrize("reason", ["more", "fewer"])
def test_what_comes_while_the_hub_reads_is_not_lost(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Client.read

    async def slow(client: Client, *arguments: Any) -> Any:
        found = await read(client, *arguments)
        assert not client.is_known
        client.doubt.note(**{reason: True})
        return found

    async def test(ends: Ends) -> None:
        client, store = ends.client, Store()
        with memory(store, PLACES_OF_TWO) as base:
            client.regions = {1: believing(base, FIVES)}
            client.doubt.note(fewer=True)
            monkeypatch.setattr(Client, "read", slow)
            await again(client, store)
            assert getattr(client.doubt, reason)

    run(test)


def test_an_error_leaves_the_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(*_: Any) -> Any:
        raise HubError("it has gone")

    async def test(ends: Ends) -> None:
        ends.client.doubt.note(more=True)
        monkeypatch.setattr(Client, "read", gone)
        with pytest.raises(HubError):
            await adopt_mappings(ends.client, Store())
        assert ends.client.doubt.more and not ends.client.is_known

    run(test)
