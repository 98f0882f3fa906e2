"""How soon the hub looks at a client again, and at which of its memory."""

from __future__ import annotations

import asyncio
from math import inf
from types import SimpleNamespace
from typing import cast

import pytest

from pagemerge.hub.attention import Attention
from pagemerge.hub.client import Client
from pagemerge.hub.decide import pace
from pagemerge.hub.domain import Members
from pagemerge.hub.looking import recall
from pagemerge.hub.model import BLOCK
from pagemerge.hub.regions import Region
from pagemerge.linux.domain import Domain

LONGEST = 2.0


def rest(attention: Attention, now: float, found: float = 0.0) -> None:
    """Have a look end that has found so many pages."""
    attention.end_look(now)
    attention.decide(found, LONGEST)


def rested() -> Attention:
    """Of a client that has been quiet for long; the last look was at 100 s."""
    attention = Attention()
    for now in range(101):
        rest(attention, float(now))
    return attention


def test_a_client_that_joins_is_looked_at_at_once_and_then_less_and_less() -> None:
    attention, now, looks = Attention(), 100.0, 0
    assert attention.due(LONGEST) <= now
    rest(attention, now)
    while now < 104:
        now = attention.due(LONGEST)
        rest(attention, now)
        looks += 1
    assert looks < 12
    assert attention.pause == LONGEST


def test_what_is_found_of_one_client_brings_no_other_one_forward() -> None:
    busy, quiet = rested(), rested()
    rest(busy, 100.0, inf)
    assert busy.due(LONGEST) == 100.0 + pace.SHORTEST
    assert quiet.due(LONGEST) == 102.0


def test_a_shortage_shortens_all_pauses() -> None:
    domain, attentions = Members(Domain(0)), [rested(), rested()]
    for it in attentions:
        client = SimpleNamespace(attention=it, turn=None, is_ready=True)
        domain.clients.append(cast(Client, client))
    assert domain.due(LONGEST) == 102.0
    assert domain.due(0.5) == 100.5
    domain.hurry()
    assert domain.due(0.5) == 100.0
    assert domain.wake.is_set()


def test_a_scan_is_full_once_every_client_was_looked_at() -> None:
    domain, attentions = Members(Domain(0)), [Attention(), Attention()]
    clients = [SimpleNamespace(attention=it, turn=None, is_ready=True) for it in attentions]
    domain.clients += [cast(Client, it) for it in clients]
    attentions[0].end_look(1.0)
    domain.end_cycle(1.1)
    assert (domain.cycles, domain.scans) == (1, 0)
    attentions[1].end_look(2.0)
    domain.end_cycle(2.1)
    assert (domain.cycles, domain.scans) == (2, 1)
    attentions[1].end_look(3.0)
    domain.end_cycle(3.1)
    assert domain.scans == 1
    clients[0].is_ready = False
    domain.end_cycle(3.2)
    assert domain.scans == 2, "it waits for nobody who does not answer"


def test_growth_is_what_came_less_what_went() -> None:
    attention = Attention()
    attention.note_present(1000)
    assert attention.grown == 1000
    attention.grown = 0
    for present, grown in ((1300, 300), (1200, 200), (900, 0), (950, 50)):
        attention.note_present(present)
        assert attention.grown == grown


def recalled(client: SimpleNamespace, grown: int) -> bool:
    """Whether a client that has grown so much is asked about its empty blocks at its next look."""
    for region in client.regions.values():
        region.pages.wait[:] = 7
    client.attention.grown = grown
    asyncio.run(recall(cast(Client, client)))
    first, second, third = (set(it.pages.wait.tolist()) for it in client.regions.values())
    assert third == {7}, "what is there waits until it is due"
    assert first == second
    return first == {0}


def with_empty_blocks() -> SimpleNamespace:
    """A client with 40 empty blocks, and 20 others."""
    regions = {number: Region.of(number << 30, 20 * BLOCK) for number in range(3)}
    regions[2].pages.empty[:] = False
    return SimpleNamespace(attention=Attention(), regions=regions, came=0)


@pytest.mark.parametrize("grown", [0, pace.FEW - 1, pace.FEW, 19, 20, 100_000])
def test_a_client_that_has_grown_enough_is_asked_about_its_empty_blocks(grown: int) -> None:
    client = with_empty_blocks()
    assert recalled(client, grown) == (grown >= 20)
    assert client.attention.grown == (0 if grown >= 20 else grown), "what is too little adds up"


def test_a_client_that_grows_elsewhere_is_asked_less_and_less() -> None:
    client, asked = with_empty_blocks(), []
    for look in range(100):
        if recalled(client, client.attention.grown + 20):
            asked.append(look)
    assert asked[:4] == [0, 2, 6, 14]
    assert len(asked) < 9
    assert recalled(client, 10_000)
    client.came += 10_000
    assert recalled(client, 20), "it was not in vain the last time"
