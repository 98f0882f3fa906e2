"""A store in a real memory cgroup: nobody fills it for the others, and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge import _core
from pagemerge.demo.dialog import Child
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn
from tests.support.cgroup import Cgroup, limited
from tests.support.hubs import FAST, Hub

pytestmark = pytest.mark.requires("root", "cgroup")
LIMIT = 128 << 20
STORE, ONE = 8192, 4096
"""Slots of the store and of one process: a quarter of the limit, and half of that."""
CONFIG = f"{FAST}store_share = 0.25\nclient_share = 0.5\n"


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with limited(LIMIT) as made:
        yield made


@pytest.fixture
def hub(hub_socket: Path, cgroup: Cgroup) -> Iterator[Hub]:
    with Hub(hub_socket, CONFIG, before=cgroup.prefix()) as running:
        yield running
        running.assert_alive()


def slabbed(member: Child) -> int:
    pages: int = member.ask("slabbed")["slabbed"]
    return pages


def skipped(hub: Hub, member: Child) -> dict[str, int]:
    """What the hub says it passed over; nothing of who has not joined yet."""
    row = hub.client(member.pid)
    return row.skipped if row is not None else {}


def test_each_process_has_its_share_and_the_store_an_end(
    hub: Hub, cgroup: Cgroup, victim: Spawn
) -> None:
    a, b, c, d = (victim("member", env=hub.env) for _ in "abcd")
    a.ask("copy", pages=6000, seed=1)
    hub.until(lambda: slabbed(a) == ONE, "stop at the share of one")
    hub.until(lambda: skipped(hub, a).get("over_quota") == 6000 - ONE, "say so")
    # Others fill what is missing, and share what is there.
    b.ask("copy", pages=6000, seed=1)
    hub.until(lambda: slabbed(b) == 6000, "let another fill the rest")
    c.ask("copy", pages=4000, seed=2)
    hub.until(lambda: slabbed(c) == STORE - 6000, "stop at the share of the cgroup")
    hub.until(lambda: skipped(hub, c).get("store_full") == 4000 - (STORE - 6000), "say so")
    # A full store merges what it has.
    d.ask("copy", pages=2000, seed=1)
    hub.until(lambda: slabbed(d) == 2000, "merge into slots that are there")
    assert hub.status().store_bytes == STORE * 4096 == LIMIT // 4
    assert [it.ask("check")["wrong"] for it in (a, b, c, d)] == [0] * 4
    assert cgroup.used_bytes() < LIMIT
    log = hub.log()
    assert log.count("a process has filled its share of the store") == 1
    assert log.count("the store has its share of this hub's memory cgroup") == 1
    # When its pages have gone there is room again.
    for gone in (a, b, d):
        gone.close()
    hub.until(lambda: hub.status().store_bytes < STORE * 4096 / 2, "drop what nobody maps")
    e = victim("member", env=hub.env)
    e.ask("copy", pages=ONE, seed=3)
    hub.until(lambda: slabbed(e) == ONE, "fill new slots again")
    assert [it.ask("check")["wrong"] for it in (c, e)] == [0, 0]


@pytest.mark.requires("uffd")
def test_merging_takes_no_memory_first(cgroup: Cgroup, hub_socket: Path, victim: Spawn) -> None:
    """Slab by slab: a host that is short of memory has no room for a copy of all that is merged."""
    pages, slab = 24576, _core.SLAB_PAGES * PAGE_SIZE
    cgroup.limit(1 << 30)
    config = f"{FAST}store_share = 1.0\nclient_share = 1.0\n"
    with Hub(hub_socket, config, before=cgroup.prefix()) as hub:
        members = [victim("member", env=hub.env) for _ in "abc"]
        for member in members:
            cgroup.take(member.pid)
        os.kill(hub.pid, signal.SIGSTOP)
        for member in members:
            member.ask("fill", pages=pages, seed=1)
        # The slab that is merged, the next one, and the hub's own memory; a copy of all would be
        # six slabs. There is no swap: whoever needs more is killed.
        cgroup.limit(cgroup.used_bytes() + 3 * slab)
        os.kill(hub.pid, signal.SIGCONT)
        hub.until(lambda: hub.status().pages_sharing == 2 * pages, "merge everything")
        assert [it.ask("check")["wrong"] for it in members] == [0] * 3


@pytest.mark.requires("uffd")
def test_the_background_goes_on_when_there_is_room(hub: Hub, victim: Spawn) -> None:
    filler, *pair = (victim("member", env=hub.env) for _ in "abc")
    other = victim("member", env=hub.env)
    filler.ask("copy", pages=ONE, seed=1)
    other.ask("copy", pages=ONE, seed=2)
    for member in pair:
        member.ask("fill", pages=1000, seed=3)
    hub.until(lambda: skipped(hub, pair[0]).get("store_full") == 1000, "say that it is full")
    assert [slabbed(it) for it in pair] == [0, 0]
    filler.close()
    hub.until(lambda: [slabbed(it) for it in pair] == [1000, 1000], "merge them after all")
    assert [it.ask("check")["wrong"] for it in (other, *pair)] == [0] * 3


@pytest.mark.requires("uffd")
def test_nothing_more_is_merged_where_the_reserve_would_be_lost(
    hub_socket: Path, victim: Spawn
) -> None:
    """The reserve is all of the host's memory, of which the programs here use some."""
    total = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    reserve = f"reserve_bytes = {total}\n"
    with Hub(hub_socket, FAST + reserve) as hub:
        pair = [victim("member", env=hub.env) for _ in "ab"]
        for member in pair:
            member.ask("fill", pages=1000, seed=3)
        hub.until(lambda: skipped(hub, pair[0]).get("reserve") == 1000, "say that it waits")
        assert [slabbed(it) for it in pair] == [0, 0]
        Path(f"{hub_socket}.toml").write_text(FAST)
        hub.process.send_signal(signal.SIGHUP)
        hub.until(lambda: [slabbed(it) for it in pair] == [1000, 1000], "merge them after all")
        assert "reserve" not in skipped(hub, pair[0])
        Path(f"{hub_socket}.toml").write_text(FAST + reserve)
        hub.process.send_signal(signal.SIGHUP)
        late = victim("member", env=hub.env)
        late.ask("fill", pages=1000, seed=3)
        hub.until(lambda: skipped(hub, late).get("reserve") == 1000, "say that it waits")
        assert [slabbed(it) for it in (*pair, late)] == [1000, 1000, 0], "what is merged stays"
        assert hub.log().count("the reserve would lack") == 2
        assert [it.ask("check")["wrong"] for it in (*pair, late)] == [0] * 3
