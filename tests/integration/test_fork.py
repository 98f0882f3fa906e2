"""Processes that fork, spawn and daemonise while their memory is merged and written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child, ask_all
from tests.conftest import Spawn, require
from tests.support.hubs import Hub

PAGES = 512
BARRIERS = ["move", "write-protect", "park"]


@pytest.fixture(params=BARRIERS)
def forkers(
    request: pytest.FixtureRequest, victim: Spawn, hub_socket: Path
) -> Iterator[list[Child]]:
    """Two members under one barrier whose writers keep the hub busy."""
    if request.param != "park":
        require("uffd")
    with Hub(hub_socket) as hub:
        env = {**hub.env, "PAGEMERGE_BARRIER": request.param}
        root = str(Path(__file__).parents[2])
        members = [victim("forker", env={**env, "PYTHONPATH": root}) for _ in "ab"]
        ask_all(members, "fill", pages=PAGES, seed=1)
        ask_all(members, "scribble")

        def merges() -> int:
            return min((it.merges for it in hub.status().clients), default=0)

        hub.until(lambda: merges() > 0, "merge what is written")
        before = merges()
        yield members
        # It went on while they forked, and the pages of the parents are right.
        hub.until(lambda: merges() > before, "go on merging")
        assert ask_all(members, "check") == [{"wrong": 0}] * 2
        hub.assert_alive()


def test_every_way_to_fork(forkers: list[Child]) -> None:
    for verb, times in (
        ("fork", 40),
        ("fork_and_use", 4),
        ("multiprocess", 8),
        ("spawn", 15),
        ("exec_in_child", 8),
    ):
        for number, answer in enumerate(ask_all(forkers, verb, times=times)):
            assert answer["wrong"] == 0, (verb, number, answer)
    assert ask_all(forkers, "daemonise") == [{"wrong": 0}] * 2
    assert ask_all(forkers, "wait_sees_nobody") == [{"seen": 0}] * 2


@pytest.mark.requires("uffd")
def test_pages_of_a_child_that_has_ended_are_merged(victim: Spawn, hub_socket: Path) -> None:
    """The kernel does not move what a child shares, nor what it shared until the next write."""
    with Hub(hub_socket) as hub:
        member = victim("member", env={**hub.env, "PAGEMERGE_BARRIER": "move"})
        member.ask("fill", pages=PAGES, seed=1)
        fork = """
read, member.kept = os.pipe()
member.child = os.fork()
if member.child == 0:
    os.close(member.kept)
    os.read(read, 1)  # until the parent closes its end
    os._exit(0)
os.close(read)
"""
        member.ask("call", code=fork)
        other = victim("member", env=hub.env)
        other.ask("copy", pages=PAGES, seed=1)

        def busy() -> int:
            row = hub.client(member.pid)
            return row.skipped.get("busy", 0) if row else 0

        hub.until(lambda: busy() >= PAGES, "find the pages busy")
        assert member.ask("slabbed") == {"slabbed": 0}
        member.ask("call", code="os.close(member.kept); os.waitpid(member.child, 0)")
        hub.until(lambda: member.ask("slabbed")["slabbed"] == PAGES, "merge them")
        assert member.ask("check") == {"wrong": 0}
        hub.assert_alive()
