"""Writers against hubs that merge as fast as they can: under no barrier is one write lost.

``racer.c`` remembers outside of the memory what each page must hold, verifies a page before each
change and all of them at the end. Two processes share contents, so merges cross processes. Under
``move`` another process, read(2) and devices (O_DIRECT) write as well; the other barriers do not
stop those (docs/hazards.md). ``PAGEMERGE_RACE_SECONDS`` sets how long at least (default 30), and
``PAGEMERGE_RACE_BARRIERS`` which barriers have the host to themselves (default: all at once).
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagemerge.demo.dialog import Child, ask_all
from tests.conftest import Spawn, lacks_uffd, require
from tests.support.building import compile_victim
from tests.support.hubs import Hub

SECONDS = float(os.environ.get("PAGEMERGE_RACE_SECONDS", "30"))
BARRIERS = os.environ.get("PAGEMERGE_RACE_BARRIERS", "move write-protect park").split()
PAGES = 6144
FILLS = 8
MERGES, SEPARATIONS = PAGES * SECONDS / 60, PAGES * SECONDS / 120
"""How many there are at least under each barrier."""
PRESENT, OF_FILE = 1 << 63, 1 << 61
FRAME = (1 << 55) - 1

WRITERS: dict[str, list[list[str]]] = {
    "move": [["stores"], ["stores", "reads", "direct"], ["remote"]],
    "write-protect": [["stores"], ["stores", "reads"]],
    "park": [["stores"], ["stores", "reads"]],
}
"""What the threads that write to one memory do; ``remote`` is a process of its own."""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """The compiled writers: Python threads write too slowly."""
    require("cc")
    return compile_victim("racer.c", tmp_path / "racer.so", "-shared", "-fPIC")


@pytest.fixture
def fills(tmp_path: Path) -> Path:
    """A file with a page of each fill, to be read into the memory."""
    path = tmp_path / "fills"
    words = np.arange(FILLS, dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
    path.write_bytes(np.repeat(words, 512).tobytes())
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


def offers_direct(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


class Race:
    """A hub under one barrier, its two clients, and the processes that write to them."""

    def __init__(self, barrier: str, hub: Hub, victim: Spawn, library: Path, fills: Path) -> None:
        self.barrier, self.hub = barrier, hub
        env = {**hub.env, "PAGEMERGE_BARRIER": barrier}
        self.members = [
            victim("racer", str(library), str(fills), str(PAGES), env=env) for _ in "ab"
        ]
        direct = offers_direct(fills)
        ways = [[way for way in some if way != "direct" or direct] for some in WRITERS[barrier]]
        self.remotes: list[Child] = []
        for member in self.members:
            numbered = [{"number": number, "ways": some} for number, some in enumerate(ways)]
            own = [it for it in numbered if it["ways"] != ["remote"]]
            member.ask("start", writers=own, of=len(ways), pages=PAGES)
            for other in [it for it in numbered if it not in own]:
                remote = victim("racer", str(library), str(fills), "0")
                base, pid = member.ready["base"], member.pid
                start: dict[str, Any] = {"writers": [other], "of": len(ways), "pages": PAGES}
                remote.ask("start", **start, base=base, pid=pid)
                self.remotes.append(remote)

    def is_at_rest(self) -> bool:
        """Do both processes map one frame for each fill?"""
        return at_rest(self.frames())

    def counted(self) -> tuple[int, int]:
        """Merges and separations of both clients."""
        rows = [it for it in self.hub.status().clients if it.barrier == self.barrier]
        return sum(it.merges for it in rows), sum(it.separations for it in rows)

    def is_enough(self) -> bool:
        """Have both clients merged and separated as often as they must?"""
        merges, separations = self.counted()
        return merges > MERGES and separations > SEPARATIONS

    def stop(self) -> list[dict[str, Any]]:
        """End the writing; what each process has to say about its pages."""
        return ask_all([*self.members, *self.remotes], "stop")

    def frames(self) -> dict[int, set[tuple[int, int]]]:
        """By fill: the page frames that hold it (member, frame), where they are a slab's."""
        found: dict[int, set[tuple[int, int]]] = {}
        for number, answer in enumerate(ask_all(self.members, "frames")):
            for entry, fill in zip(answer["entries"], answer["fills"], strict=True):
                if fill > 0 and entry & PRESENT and entry & OF_FILE:
                    found.setdefault(fill, set()).add((number, entry & FRAME))
        return found


@pytest.mark.timeout(4 * SECONDS + 240)
def test_no_write_is_lost_under_any_barrier(
    victim: Spawn, hub_socket: Path, library: Path, fills: Path
) -> None:
    """All at the same time, each with a hub and processes of its own."""
    barriers = ["park"] if lacks_uffd() else BARRIERS
    with ExitStack() as running:
        races = []
        for barrier in barriers:
            hub = running.enter_context(Hub(hub_socket.with_name(barrier)))
            races.append(Race(barrier, hub, victim, library, fills))
        end = time.monotonic() + SECONDS
        races[0].hub.until(lambda: time.monotonic() > end, "live that long", SECONDS + 60)
        # Where others use this host as well, the same number of merges takes longer.
        while time.monotonic() < end + 3 * SECONDS and not all(race.is_enough() for race in races):
            time.sleep(0.5)
        for race in races:
            merges, separations = race.counted()
            answers = race.stop()
            writes = sum(it["writes"] for it in answers)
            lost = [loss for it in answers for loss in it["losses"]]
            skipped = [it.skipped for it in race.hub.status().clients]
            told = f"{race.barrier}: {writes} writes, {merges} merges, {separations} separations"
            print(told, skipped)
            assert not lost, f"{told}; lost: {lost}"
            assert not any(it["failed"] for it in answers), told
            # Really at once: each page was merged and separated over and over.
            assert writes > PAGES * SECONDS, told
            assert merges > MERGES, told
            assert separations > SEPARATIONS, told
        for race in races:
            # At rest now: one page frame for each fill, whoever maps it, by the kernel's account.
            race.hub.until(race.is_at_rest, "merge what stays as it is")


def at_rest(frames: dict[int, set[tuple[int, int]]]) -> bool:
    """Does each fill have frames in both processes, and some that both have?"""
    return len(frames) == FILLS - 1 and all(
        {frame for number, frame in found if number == 0}
        & {frame for number, frame in found if number == 1}
        for found in frames.values()
    )
