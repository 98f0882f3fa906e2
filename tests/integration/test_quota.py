"""A store in a real memory cgroup: nobody fills it for the others, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.lab.cgroup import Cgroup, limited

from pagemerge.demo.dialog import Child
from pagemerge.errors import Unsupported
from tests.conftest import Spawn
from tests.hubs import FAST, Hub

pytestmark = pytest.mark.requires("root")
LIMIT = 128 << 20
STORE, ONE = 8192, 4096
"""Slots of the store and of one process: a quarter of the limit, and half of that."""
CONFIG = f"{FAST}store_share = 0.25\nclient_share = 0.5\n"


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    try:
        with limited(LIMIT) as made:
            yield made
    except Unsupported as error:
        pytest.skip(str(error))


@pytest.fixture
def hub(hub_socket: Path, cgroup: Cgroup) -> Iterator[Hub]:
    with Hub(hub_socket, CONFIG, before=cgroup.prefix()) as running:
        yield running
        running.assert_alive()


def slabbed(member: Child) -> int:
    pages: int = member.ask("slabbed")["slabbed"]
    return pages


def skipped(hub: Hub, member: Child) -> dict[str, int]:
    row = hub.client(member.pid)
    assert row is not None
    return row.skipped


def test_each_process_has_its_share_and_the_store_an_end(
    hub: Hub, cgroup: Cgroup, victim: Spawn
) -> None:
    a, b, c, d = (victim("member", env=hub.env) for _ in "abcd")
    a.ask("copy", pages=6000, seed=1)
    hub.until(lambda: slabbed(a) == ONE, "stop at the share of one")
    assert skipped(hub, a) == {"over_quota": 6000 - ONE}
    # Others fill what is missing, and share what is there.
    b.ask("copy", pages=6000, seed=1)
    hub.until(lambda: slabbed(b) == 6000, "let another fill the rest")
    c.ask("copy", pages=4000, seed=2)
    hub.until(lambda: slabbed(c) == STORE - 6000, "stop at the share of the cgroup")
    assert skipped(hub, c) == {"store_full": 4000 - (STORE - 6000)}
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
