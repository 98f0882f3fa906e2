"""Descriptors run out, in the hub or in a program: what is merged stays so, and the rest waits."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.hub import wire
from tests.conftest import Spawn
from tests.fuzz.campaign import open_files
from tests.fuzz.descriptors import forged
from tests.support.bystanders import Bystanders
from tests.support.hubs import Hub
from tests.support.stranger import Stranger

FEW = 60
"""Descriptors of the hub."""
SHORT = ["/bin/sh", "-c", f'ulimit -n {FEW} && exec "$@"', "sh"]
COPIES = """

member.kept = [
    pagemerge.copy(np.repeat(np.arange(16, dtype=np.uint64) + 1000 * copy + {first}, 512))
    for copy in range({copies})
]
"""
ONE_MORE = """
number = len(member.kept)
member.kept.append(
    pagemerge.copy(np.repeat(np.arange(16, dtype=np.uint64) + 1000 * number + {first}, 512))
)
"""
WRONG = """
answer = dict(wrong=sum(
    int((kept != np.repeat(np.arange(16, dtype=np.uint64) + 1000 * copy + {first}, 512)).any())
    for copy, kept in enumerate(member.kept)
))
"""


def copies(member: Child, count: int, first: int) -> None:
    """Have so many arrays of different contents, each of which would make a slab."""
    member.ask("call", code=COPIES.format(copies=count, first=first))


def wrong(member: Child, first: int) -> int:
    """Of those arrays."""
    found: int = member.ask("call", code=WRONG.format(first=first))["wrong"]
    return found


def test_a_hub_that_is_short_of_descriptors(hub_socket: Path, victim: Spawn) -> None:
    with Hub(hub_socket, before=SHORT) as hub:
        honest = Bystanders(hub, victim)
        honest.go_on()
        # Without a barrier: the hub cannot put its small slabs together, which frees descriptors.
        many = victim("member", env={**hub.env, "PAGEMERGE_BARRIER": "intern"})
        copies(many, 2 * FEW, first=10**6)
        assert wrong(many, 10**6) == 0
        assert open_files(hub.pid) < FEW, "nothing is left for clients"
        assert "or descriptors: no new stable pages for now" in hub.log()
        # Even so it can be asked, and let new clients in, and go on.
        row = hub.client(many.pid)
        assert row is not None
        assert row.skipped["store_full"] == 16
        many.close()
        honest.go_on()


def test_connections_that_take_all_descriptors(hub_socket: Path, victim: Spawn) -> None:
    slab, *others = forged()
    with Hub(hub_socket, before=SHORT) as hub, ExitStack() as open_:
        honest = Bystanders(hub, victim)
        honest.go_on()
        speaker = open_.enter_context(Stranger(hub.socket))
        speaker.hello()
        speaker.regions()
        with ExitStack() as silent:
            for _ in range(FEW):
                silent.enter_context(Stranger(hub.socket))
            hub.until(lambda: open_files(hub.pid) == FEW, "run out of descriptors")
            # Who is there already is not sent away for what the hub lacks.
            speaker.send(wire.Kind.HANDBACK, 0, descriptors=[slab])
            hub_said = "no descriptor is left for a slab of process"
            hub.until(lambda: hub_said in hub.log(), "say what it lacks")
            for member in honest.members:
                assert member.ask("check") == {"wrong": 0}
        honest.go_on()
        for _ in "ab":  # it still speaks with us
            speaker.regions()
        assert "cannot accept a connection" in hub.log()
    for descriptor in (slab, *others):
        os.close(descriptor)


@pytest.mark.parametrize("barrier", ["auto", "park"])
def test_a_program_that_is_short_of_descriptors(
    hub_socket: Path, victim: Spawn, barrier: str
) -> None:
    with Hub(hub_socket) as hub:
        env = {**hub.env, "PAGEMERGE_BARRIER": barrier}
        member = victim("member", env=env)
        copies(member, 2, first=1)
        limits = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, 20000))"
        member.ask("call", code=limits.format(most=16))
        copies(member, 40, first=2)
        assert wrong(member, 2) == 0

        def lacks(first: int) -> bool:
            # The note tells of the last plan, and the hub puts small slabs together meanwhile.
            member.ask("call", code=ONE_MORE.format(first=first))
            row = hub.client(member.pid)
            assert row is not None
            return "raise RLIMIT_NOFILE" in row.note

        hub.until(lambda: lacks(first=2), "note what the program lacks")
        assert wrong(member, 2) == 0
        member.ask("call", code=limits.format(most=1024))
        copies(member, 4, first=3)
        assert wrong(member, 3) == 0
        hub.until(lambda: not lacks(first=3), "forget what the program lacked")
        assert wrong(member, 3) == 0
        hub.assert_alive()
