"""The ways in which each program is run, and the control of each."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a program."""

    name: str
    about: str
    companion: str = ""
    """Which of our libraries is preloaded beside the agent's; empty: neither is."""
    idle: bool = False
    behind: bool = False
    """Is the companion behind the agent's library, so that its constructor runs before ours?"""
    all: bool = False
    """Does the agent merge memory that nobody marks, malloc's too?"""


BARE = Way("bare", "without us")
WAYS = (
    BARE,
    Way("idle", "an agent that runs and merges nothing", "active", idle=True),
    Way(
        "active",
        "an agent that merges a second buffer, which is rewritten all the time",
        "active",
        behind=True,
    ),
    Way("every", "each private anonymous mapping of the program is marked", "every"),
    Way("all", "`run --all` merges what nobody marks, and has malloc's memory merged", all=True),
)

# Before the agent's library a companion sees the program's calls first, and its own go to the
# agent. Behind it, it marks memory while the agent's library has not been initialised: ld.so does
# so from the last to the first.
_BEFORE = 'LD_PRELOAD="$0${LD_PRELOAD:+:$LD_PRELOAD}" && export LD_PRELOAD && exec "$@"'
_BEHIND = 'LD_PRELOAD="${LD_PRELOAD:+$LD_PRELOAD:}$0" && export LD_PRELOAD && exec "$@"'


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are: the companions' folder, the hub's socket, and which barrier is tried."""

    companions: Path
    socket: Path
    barrier: str

    def command(self, way: Way, argv: Sequence[str]) -> list[str]:
        """``argv`` in that way."""
        if way is BARE:
            return list(argv)
        run = [sys.executable, "-m", "pagemerge", "run", "--quiet", "--barrier", self.barrier]
        if way.all:
            run.append("--all")
        return [*run, "--socket", str(self.socket), "--", *self._beside(way, argv)]

    def control(self, way: Way, argv: Sequence[str]) -> list[str]:
        """``argv`` with the same companion, which marks nothing, and without an agent."""
        return self._beside(way, argv)

    def environment(self, way: Way, *, control: bool = False) -> dict[str, str]:
        """The environment of a run."""
        env = {**os.environ, "PAGEMERGE_AUTOSTART": "0"}
        if way.idle:
            env["SELFTESTS_IDLE"] = "1"
        if control:
            env["SELFTESTS_ALONE"] = "1"
        return env

    def _beside(self, way: Way, argv: Sequence[str]) -> list[str]:
        if not way.companion:
            return list(argv)
        script = _BEHIND if way.behind else _BEFORE
        return ["/bin/sh", "-c", script, str(self.companions / f"{way.companion}.so"), *argv]
