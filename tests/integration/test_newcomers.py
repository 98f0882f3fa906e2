"""A client that is new, or fills memory, is merged soon, and the others are not asked for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import Spawn
from tests.support.hubs import Hub
from tests.support.members import merged, run

PAGES = 4096
NEWCOMERS = 3
ENOUGH = PAGES * 99 // 100
"""A page that is written while the hub reads it is left, and one page is too few for a plan."""
PAUSE = 2.0
"""The longest pause between two looks, by default."""
FEW = 8
"""Looks at all. Empty memory is passed over in 15 or 31 of them, if it is not seen to grow."""
ALLOCATE = f"""
member.memory = np.frombuffer(memoryview(pagemerge.buffer({PAGES} << 12)), np.uint64)
member.memory = member.memory.reshape({PAGES}, -1)
"""
FILL = f"""
member.wanted = np.arange({PAGES}, dtype=np.uint64) * np.uint64(2**32) + np.uint64(1)
member.memory[:] = member.wanted[:, None]
"""


@pytest.mark.requires("uffd")
def test_newcomers_are_merged_soon_and_the_others_are_left_alone(
    hub_socket: Path, victim: Spawn
) -> None:
    with Hub(hub_socket, "[hub]\n") as hub:
        standing = [victim("member", env=hub.env) for _ in "abc"]
        late = standing.pop()
        run(late, ALLOCATE)
        for one in standing:
            one.ask("fill", pages=PAGES, seed=1)
        hub.until(lambda: all(merged(one, ENOUGH) for one in standing), "merge two members")
        time.sleep(2 * PAUSE)  # pauses have grown

        scans, began = hub.status().full_scans, time.monotonic()
        for _ in range(NEWCOMERS):
            newcomer = victim("member", env=hub.env)
            newcomer.ask("fill", pages=PAGES, seed=1)
            hub.until(lambda: merged(newcomer, ENOUGH), "merge a newcomer")  # noqa: B023
            assert newcomer.ask("check") == {"wrong": 0}
            newcomer.close()
        passed = time.monotonic() - began
        assert hub.status().full_scans - scans <= passed / PAUSE + 2, "all were asked each time"

        scans = hub.status().full_scans
        run(late, FILL)
        hub.until(lambda: merged(late, ENOUGH), "merge what was filled late")
        assert hub.status().full_scans - scans < FEW, "it had to wait for its empty blocks' turn"
        assert late.ask("check") == {"wrong": 0}
