"""A scene that is measured: processes with memory of known contents, and when it is merged."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import ksm

from pagemerge.demo.dialog import Child
from pagemerge.model import PAGE_SIZE

from . import hub, worker

GOOD = 0.999
"""Part of the pages that must be saved."""
FILLING = 300.0
"""Seconds that the processes may take to fill their memory."""
MOST_MAPPINGS = Path("/proc/sys/vm/max_map_count")


@dataclass(frozen=True, slots=True)
class Scene:
    """What is measured."""

    name: str
    processes: int
    pages: int
    """Of each process."""

    @property
    def savings(self) -> int:
        """Pages that merging can save."""
        each = worker.shared_pages(self.pages, self.name)
        return (self.processes - 1) * each


@contextlib.contextmanager
def workers(
    scene: Scene, engine: str, env: dict[str, str], program: Sequence[str] = (worker.__file__,)
) -> Iterator[list[Child]]:
    """Processes that have allocated a scene's memory; ``fill`` it."""
    argv = [sys.executable, *program, str(os.getpid())]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(Child(argv, env=env)) for _ in range(scene.processes)]
        for index, child in enumerate(started):
            child.ask("open", engine=engine, scene=scene.name, index=index, pages=scene.pages)
        yield started


def fill(children: Sequence[Child]) -> None:
    """Have all of them fill their memory, all at once."""
    for child in children:
        child.question("fill")
    for child in children:
        child.answer(FILLING)


@contextlib.contextmanager
def held_user_engine(scene: Scene, **settings: Any) -> Iterator[tuple[hub.Hub, list[Child]]]:
    """A hub that is stopped, and its clients with their memory filled: ``release`` the hub."""
    with (
        hub.running(cpu_percent=100, **settings) as own,
        workers(scene, "user", own.environment()) as children,
    ):
        # The hub knows all of them, as in the long run it does.
        deadline = time.monotonic() + hub.START
        while len(own.status().clients) < scene.processes and time.monotonic() < deadline:
            time.sleep(0.02)
        own.hold()
        fill(children)
        yield own, children


def until_merged(own: hub.Hub, pids: Sequence[int], pages: int, deadline: float) -> int:
    """Wait until ``pages`` are saved, or for the deadline; returns how many are.

    The hub takes a moment to count: until the kernel's own accounts, which cost nothing, say that
    most of it is done, it is asked twice a second only.
    """
    goal, before, asked = GOOD * pages, anonymous_pages(pids), time.monotonic()
    while True:
        now = time.monotonic()
        if before - anonymous_pages(pids) >= 0.98 * pages or now > min(asked + 0.5, deadline):
            saved, asked = own.status().pages_sharing, now
            if saved >= goal or now > deadline:
                return saved
        time.sleep(0.01)


def anonymous_pages(pids: Sequence[int]) -> int:
    """Pages of their own that processes have (RssAnon, proc_pid_status(5))."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        total += int(text.partition("RssAnon:")[2].split()[0]) * 1024 // PAGE_SIZE
    return total


def until_merged_by_kernel(kernel: ksm.Ksm, pages: int, deadline: float) -> int:
    """Wait until ksmd has saved ``pages`` (or for the deadline); how many it has."""
    while (saved := kernel.sharing) < GOOD * pages and time.monotonic() < deadline:
        time.sleep(0.01)
    return saved


@contextlib.contextmanager
def mappings_for(scene: Scene) -> Iterator[None]:
    """Let a process have the mappings that a scene needs, while it lasts."""
    before = MOST_MAPPINGS.read_text().strip()
    needed = 4 * scene.pages
    if scene.name not in ("scattered", "gaps") or needed <= int(before) or os.geteuid():
        yield
        return
    MOST_MAPPINGS.write_text(str(needed))
    try:
        yield
    finally:
        MOST_MAPPINGS.write_text(before)
