"""Processes that fork, spawn and daemonise while their memory is merged and written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child, ask_all
from tests.conftest import PROBES, REQUIRED, Spawn
from tests.hubs import Hub

PAGES = 512
BARRIERS = ["move", "write-protect", "park"]


@pytest.fixture(params=BARRIERS)
def forkers(
    request: pytest.FixtureRequest, victim: Spawn, hub_socket: Path
) -> Iterator[list[Child]]:
    """Two members under one barrier whose writers keep the hub busy."""
    if request.param != "park" and (reason := PROBES["uffd"]()):
        (pytest.fail if "uffd" in REQUIRED else pytest.skip)(f"uffd: {reason}")
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
