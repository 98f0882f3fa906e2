"""A hostile process: ``python -m tests.fuzz.hostile SOCKET UID SEED HUB``.

It starts as root (or as whoever runs the test), makes a file that keeps everybody waiting where it
can, becomes its user, and then talks and acts as it is told, for so many seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

from pagemerge.demo.dialog import Answer, serve
from tests.fuzz.acts import ACTS, Scene
from tests.fuzz.changes import change
from tests.fuzz.descriptors import forged
from tests.fuzz.endless import EndlessFile
from tests.fuzz.talk import Talk

STUCK = 40.0
"""Seconds after its time at which a process says on stderr where it is."""


class Hostile:
    """One of them."""

    def __init__(self, path: Path, seed: int, endless: int | None) -> None:
        self.descriptors = forged() + ([] if endless is None else [endless] * 3)
        self.scene = Scene(path, random.Random(seed), self.descriptors)
        self.talk = Talk(path, seed, self.descriptors)
        self.acts = {act.__name__: act for act in (*ACTS, change)}

    def compute(self, seconds: float) -> Answer:
        """Be as busy as otherwise, and leave the hub alone."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.scene.chance.randbytes(10_000)
        return {"messages": 0, "acts": {}, "connections": 0}

    def torment(self, seconds: float, only: str = "") -> Answer:
        """Talk, and act in between; ``only``: nothing but this act."""
        faulthandler.dump_traceback_later(seconds + STUCK)
        end, before = time.monotonic() + seconds, self.talk.connections
        messages, acts = 0, Counter[str]()
        while time.monotonic() < end:
            name = only or self.scene.chance.choice([*self.acts, "talk"])
            try:
                if name == "talk":
                    said = self.talk.messages
                    self.talk.run(2000, end)
                    messages += self.talk.messages - said
                else:
                    messages += self.acts[name](self.scene)
            except (OSError, TimeoutError):  # the hub has hung up, or has too much of us
                acts[f"{name} was refused"] += 1
            acts[name] += 1
        faulthandler.cancel_dump_traceback_later()
        connections = self.talk.connections - before
        return {"messages": messages, "acts": acts, "connections": connections}

    def rest(self) -> Answer:
        """Hang up everywhere."""
        self.talk.close()
        self.scene.let_go()
        return {}


def become(uid: int) -> None:
    """Be that user's, as a program of that user is from its start."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    pr_set_dumpable = 4
    ctypes.CDLL(None).prctl(pr_set_dumpable, 1, 0, 0, 0)


def main() -> None:
    path, uid, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    os.nice(10)
    with contextlib.ExitStack() as open_:
        endless, why = None, ""
        try:
            endless = open_.enter_context(EndlessFile(int(sys.argv[4]))).descriptor
        except OSError as error:
            why = str(error)
        if uid != os.geteuid():
            become(uid)
        hostile = Hostile(path, seed, endless)
        verbs = {name: getattr(hostile, name) for name in ("compute", "torment", "rest")}
        serve(verbs, endless=endless is not None, why=why)


if __name__ == "__main__":
    main()
