"""When memory is short, by the kernel's own figures."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import cast

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.hub.attention import Attention
from pagemerge.hub.budget import Budget
from pagemerge.hub.client import Client
from pagemerge.hub.domain import Members
from pagemerge.hub.settings import Settings
from pagemerge.hub.shortage import Shortage
from pagemerge.linux.domain import Domain
from tests.support.cgroup import limited

LIMIT, FILLED = 96 << 20, 76 << 20
HOLD = f"""
from pagemerge.demo.dialog import serve
held = bytearray(b"x") * {FILLED}
serve({{}})
"""
CALM = Settings(available_percent=0, pressure_percent=100)


def watched(shortage: Shortage, members: Members, seconds: float = 0.3) -> int:
    """Watch for a while; returns how often a change was told."""
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    async def main() -> None:
        task = asyncio.create_task(shortage.watch(lambda: [members], changed))
        await asyncio.wait({task}, timeout=seconds)
        assert not task.done(), task.exception()
        task.cancel()

    asyncio.run(main())
    return changes


def test_a_host_is_short_if_less_is_left_than_the_settings_say() -> None:
    members = Members(Domain(0))
    shortage = Shortage(Settings(available_percent=100))
    assert watched(shortage, members) == 1
    assert shortage.everywhere
    assert shortage.concerns(members)
    shortage.settings = CALM
    assert watched(shortage, members) == 0, "a shortage lasts a while"
    assert shortage.everywhere
    calm = Shortage(CALM)
    assert watched(calm, members) == 0
    assert not calm.concerns(members)


@pytest.mark.requires("root", "cgroup")
def test_a_clients_cgroup_concerns_its_domain_only() -> None:
    members, other = Members(Domain(0)), Members(Domain(1))
    shortage = Shortage(Settings(available_percent=20, pressure_percent=100))
    with limited(LIMIT) as cgroup:
        with Child([*cgroup.prefix(), sys.executable, "-c", HOLD]) as child:
            client = SimpleNamespace(pid=child.pid, attention=Attention(pause=2.0))
            members.clients.append(cast(Client, client))
            watched(shortage, members)
            assert members.is_short
            assert client.attention.pause == 0, "it is looked at at once"
            assert not shortage.everywhere
            assert shortage.concerns(members)
            assert not shortage.concerns(other)
        watched(shortage, members)
        assert not members.is_short, "the client has ended"


def test_a_hub_that_hurries_owes_nothing_later() -> None:
    budget = Budget(0.001, 0.001)
    budget.hurries = True
    for _ in range(200_000):
        pass
    assert budget.rest(spare=0.0) < 0.1
    budget.hurries = False
    assert budget.rest(spare=0.0) < 1
