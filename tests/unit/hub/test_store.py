"""The store of a domain: real slabs of this process's own memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import numpy as np
import pytest

from pagemerge import _core
from pagemerge.errors import ProtocolError, UsageError
from pagemerge.hub.model import NO_SLOT
from pagemerge.hub.store import Slab, Store
from pagemerge.model import ABSENT, PAGE_SIZE, ZERO

MINE = np.full(8, 42, np.uint32)
"""The process that slots are filled from, it is said."""


@pytest.fixture
def pages() -> Iterator[np.ndarray]:
    """Eight page-aligned pages: 1 2 3 0 1 2 3 0."""
    raw = np.zeros(9 * PAGE_SIZE, np.uint8)
    start = -raw.ctypes.data % PAGE_SIZE
    aligned = raw[start : start + 8 * PAGE_SIZE].reshape(8, PAGE_SIZE)
    aligned[:] = np.array([1, 2, 3, 0, 1, 2, 3, 0], np.uint8)[:, None]
    yield aligned


def test_a_client_is_looked_at_in_several_places_at_once(pages: np.ndarray) -> None:
    peer, start = _core.Peer(os.getpid()), pages.ctypes.data
    places = np.array([start + 4 * PAGE_SIZE, start, start + 3 * PAGE_SIZE], np.uint64)
    counts, seen = np.array([2, 1, 1], np.uint64), np.empty(4, np.uint64)
    assert peer.look(places, counts, 7, seen) == (4 * PAGE_SIZE, 0)
    assert seen[0] == seen[2] != seen[1]
    assert seen[3] == ZERO
    with pytest.raises(UsageError, match="room for 4 of 3 pages"):
        peer.look(places[:2], counts[:2], 7, seen)
    with pytest.raises(UsageError, match="starts and pages must be equally long"):
        peer.look(places[:2], counts, 7, seen)


def build(store: Store, pages: np.ndarray) -> tuple[int, int, np.ndarray]:
    count = np.array([len(pages)], np.uint64)
    start = np.array([pages.ctypes.data], np.uint64)
    return store.build([_core.Peer(os.getpid())], np.zeros(1, np.uint64), start, count)[:3]


def add(store: Store, built: tuple[int, int, np.ndarray]) -> Slab:
    return store.add(*built, MINE[: len(built[2])])


def test_a_slab_holds_what_was_copied_and_knows_where(pages: np.ndarray) -> None:
    store = Store()
    descriptor, slab, digests = build(store, pages)
    made = store.add(descriptor, slab, digests, MINE[: len(digests)])
    assert os.pread(descriptor, 8 * PAGE_SIZE, 0) == pages.tobytes()
    assert (made.base, made.pages, store.next_slot) == (0, 8, 8)
    assert store.bytes == 8 * PAGE_SIZE
    # Equal pages: the first slot is the one that is found; zero pages are in no index.
    assert store.find(digests).tolist() == [0, 1, 2, NO_SLOT, 0, 1, 2, NO_SLOT]
    assert store.find(np.array([ABSENT, ZERO, 12345], np.uint64)).tolist() == [NO_SLOT] * 3
    slabs, places = store.locate(np.array([2, 7, 8, NO_SLOT], np.uint32))
    assert slabs.tolist() == [slab, slab, 0, 0]
    assert places.tolist() == [2, 7, 0, 0]
    store.drop([slab])
    with pytest.raises(OSError):
        os.fstat(descriptor)
    assert store.find(digests).tolist() == [NO_SLOT] * 8


def test_a_slot_number_is_used_again_only_after_its_slab(pages: np.ndarray) -> None:
    store = Store()
    first = add(store, build(store, pages[:3]))
    second = add(store, build(store, pages[4:6]))
    assert (second.base, store.next_slot) == (3, 5)
    store.drop([first.id])
    large = add(store, build(store, pages[:4]))
    small = add(store, build(store, pages[:2]))
    assert (large.base, small.base) == (5, 0)
    at = store.locate(np.array([0, 2, 3, 5], np.uint32))[0].tolist()
    assert at == [small.id, 0, second.id, large.id]
    store.drop([second.id, large.id, small.id])
    assert store.next_slot == 0


def test_live_slots_move_to_a_new_slab(pages: np.ndarray) -> None:
    store = Store()
    old = add(store, build(store, pages[:3]))
    digests = build(store, pages[:3])
    os.close(digests[0])
    copied = store.copy(np.array([0, 2], np.uint32))
    assert os.pread(copied[0], 9999, 0) == pages[[0, 2]].tobytes()
    store.retire(np.array([0, 1, 2], np.uint32))
    assert store.find(digests[2]).tolist() == [NO_SLOT] * 3
    new = store.add(*copied, MINE[:2])
    assert store.find(digests[2]).tolist() == [new.base, NO_SLOT, new.base + 1]
    # A client hands the old slab back: what the index lacked of it is found again.
    assert (store.is_retired(old.id), store.is_retired(new.id)) == (True, False)
    store.reinstate(old, digests[2])
    assert store.find(digests[2]).tolist() == [new.base, old.base + 1, new.base + 1]
    assert not store.is_retired(old.id)
    # If the copy goes, what is left of the old slab takes its place.
    store.put_last(np.array([new.base, old.base + 1], np.uint32))
    assert store.find(digests[2]).tolist() == [old.base, old.base + 1, new.base + 1]
    store.put_last(np.array([old.base, old.base + 2], np.uint32))
    assert store.find(digests[2]).tolist() == [new.base, old.base + 1, new.base + 1]
    store.drop([new.id])
    assert store.find(digests[2]).tolist() == [old.base, old.base + 1, old.base + 2]
    assert store.locate(np.array([1], np.uint32))[0].tolist() == [old.id]
    store.drop([old.id, new.id])


def test_who_filled_what_is_known_until_it_is_dropped(pages: np.ndarray) -> None:
    store = Store()
    one = store.add(*build(store, pages[:3]), np.array([7, 7, 9], np.uint64))
    other = store.add(*build(store, pages[:2]), np.array([9, 7], np.uint64))
    assert store.held == {7: 3, 9: 2}
    assert store.donors(np.array([2, 3, 0], np.uint32)).tolist() == [9, 9, 7]
    store.drop([one.id])
    assert store.held == {7: 1, 9: 1}
    store.drop([other.id])
    assert not store.held


def test_seeds_differ_so_that_collisions_cannot_be_prepared(pages: np.ndarray) -> None:
    one, other = Store(), Store()
    digests = [build(store, pages[:1]) for store in (one, other)]
    assert digests[0][2][0] != digests[1][2][0]
    for descriptor, _, _ in digests:
        os.close(descriptor)


def test_an_unreadable_page_stays_zero_in_the_slab() -> None:
    store = Store()
    nowhere = np.array([PAGE_SIZE], np.uint64)
    first, count = np.zeros(1, np.uint64), np.array([1], np.uint64)
    descriptor, _, digests, _ = store.build([_core.Peer(os.getpid())], first, nowhere, count)
    assert digests.tolist() == [ZERO]
    os.close(descriptor)


def test_a_memory_file_that_could_change_is_no_slab() -> None:
    descriptor = os.memfd_create("forged", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, PAGE_SIZE)
    with pytest.raises(ProtocolError, match="seals"):
        _core.open_slab(descriptor, 1)
    os.close(descriptor)


def test_nobody_can_write_a_slab_not_even_its_maker(pages: np.ndarray) -> None:
    store = Store()
    descriptor, _, _ = build(store, pages)
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", 0)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    prot_read, prot_write, shared = 1, 2, 1
    mapped = libc.mmap(None, PAGE_SIZE, prot_read | prot_write, shared, descriptor, 0)
    assert mapped == ctypes.c_void_p(-1).value
    assert os.fstat(descriptor).st_mode & 0o777 == 0o400
    os.close(descriptor)


def test_without_memory_nothing_is_added(
    pages: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller closes the descriptor then, and another file may get its number."""
    store = Store()
    built = build(store, pages[:3])

    def fails(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(np, "insert", fails)
        with pytest.raises(MemoryError):
            add(store, built)
    assert (store.slabs, store.held, store.bytes) == ({}, {}, 0)
    assert store.find(built[2]).tolist() == [NO_SLOT] * 3
    store.drop([add(store, built).id])
