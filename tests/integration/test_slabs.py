"""Slabs live and die right: the store does not grow, whatever the programs write."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn
from tests.support.hubs import Hub

PAGES = 2000
pytestmark = pytest.mark.requires("uffd")


@pytest.fixture
def members(hub: Hub, victim: Spawn) -> list[Child]:
    """Two clients with the same contents, merged."""
    both = [victim("member", env=hub.env) for _ in "ab"]
    for member in both:
        member.ask("fill", pages=PAGES, seed=1)
    until_sharing(hub, PAGES)
    return both


def until_sharing(hub: Hub, pages: int) -> None:
    hub.until(lambda: hub.status().pages_sharing == pages, f"share {pages} pages")


def rewrite(hub: Hub, members: list[Child], first: int, pages: int, seed: int) -> None:
    """Have all members write the same pages, until those are merged again.

    Merges are counted: right after the write the hub still believes what it saw before.
    """

    def merges() -> int:
        return sum(client.merges for client in hub.status().clients)

    before = merges()
    for member in members:
        member.ask("write", first=first, pages=pages, seed=seed)
    hub.until(lambda: merges() >= before + pages * len(members), "merge what was written")
    until_sharing(hub, PAGES)


def slab_mappings(member: Child) -> int:
    """Mappings of slabs that the kernel knows in a process, written since or not."""
    return Path(f"/proc/{member.pid}/maps").read_text().count("pagemerge-slab")


def unharmed(members: list[Child]) -> None:
    for member in members:
        assert member.ask("check") == {"wrong": 0}


def test_churn_does_not_fill_the_store(hub: Hub, members: list[Child]) -> None:
    """All pages but a few are rewritten and merged again, over and over: the few keep a slot of
    each generation's slabs alive, so only compaction brings the memory back."""
    for round_ in range(2, 10):
        first = 20 * round_  # what is before keeps its old contents
        rewrite(hub, members, first, PAGES - first, seed=round_)
        unharmed(members)
    needed = PAGES * PAGE_SIZE
    hub.until(lambda: hub.status().store_bytes <= 2 * needed, "compact the store")
    # Not at once: one member may have moved to the new slab, and the other not yet.
    hub.until(lambda: hub.status().pages_shared == PAGES, "have both members move")
    unharmed(members)


def test_pages_that_all_write_leave_their_slabs(hub: Hub, members: list[Child]) -> None:
    """Written pages keep a mapping of the slab under them; it has to go for the slab to die."""
    for number, member in enumerate(members):
        member.ask("write", first=0, pages=PAGES, seed=1000 + number)
    hub.until(lambda: hub.status().store_bytes == 0, "let the slabs die")
    unharmed(members)
    assert [slab_mappings(member) for member in members] == [0, 0]


def test_pages_that_are_equal_again_return_to_their_slot(hub: Hub, members: list[Child]) -> None:
    store = hub.status().store_bytes
    mappings = [slab_mappings(member) for member in members]
    members[0].ask("write", first=100, pages=200, seed=5)
    until_sharing(hub, PAGES - 200)
    members[0].ask("write", first=100, pages=200, seed=1)
    until_sharing(hub, PAGES)
    assert hub.status().store_bytes == store
    assert [slab_mappings(member) for member in members] == mappings
    unharmed(members)


def test_a_store_nobody_shares_is_given_back(hub: Hub, members: list[Child]) -> None:
    for member in members:
        member.ask("fill", pages=10, seed=77)
    hub.until(lambda: hub.status().store_bytes == 10 * PAGE_SIZE, "drop the old slabs")
    unharmed(members)


def test_many_small_slabs_are_put_together(hub: Hub, members: list[Child]) -> None:
    """Each round merges a few pages, which costs a slab and a descriptor each time."""
    for round_ in range(40):
        rewrite(hub, members, 20 * round_, 20, seed=3)
    descriptors = Path(f"/proc/{hub.pid}/fd")
    hub.until(lambda: sum(1 for _ in descriptors.iterdir()) < 60, "put small slabs together")
    unharmed(members)


def test_metadata_is_small(hub: Hub, members: list[Child]) -> None:
    """Two sharers a slot are the dearest that can be: fewer would not be merged."""
    del members
    assert hub.status().metadata_bytes <= 24 * 2 * PAGES
