"""A virtual machine of our own, merged while its guest and its device write to its memory.

``kvm.c`` counts what goes wrong: lost writes, stale views, pages that come back from the balloon
and are not zero, and pages that the kernel's log of dirty pages misses. It runs bare, with
mistakes made on purpose, and beside a peer under each barrier. ``PAGEMERGE_KVM_SECONDS`` sets how
long each race under a barrier takes (default 2).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pagemerge.demo.dialog import Child, ask_all
from tests.conftest import require
from tests.support.building import compile_victim
from tests.support.hubs import PATIENCE, Hub

SECONDS = float(os.environ.get("PAGEMERGE_KVM_SECONDS", "2"))
BRIEF = 2.0
"""Seconds of a race without a merger, long enough to tell any mistake."""

PAGES, PAUSE_US = 2048, 1000
WRONG = ("lost", "stale", "unzeroed", "missed_dirty")
BARRIERS = ["move", "write-protect", "park"]

pytestmark = [pytest.mark.requires("kvm", "cc"), pytest.mark.timeout(SECONDS * 4 + 120)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled victim."""
    require("cc")
    return compile_victim("kvm.c", tmp_path_factory.mktemp("kvm") / "kvm", "-pthread")


def machine(program: Path, *, cpus: int = 1, hub: Hub | None = None, barrier: str = "") -> Child:
    """A virtual machine: bare, or under ``pagemerge run`` as a client of ``hub``."""
    run = [sys.executable, "-m", "pagemerge", "run", "--barrier", barrier, "--"] if hub else []
    words = ["-", "1", str(time.monotonic_ns() % 2**32), str(PAGES), str(cpus), str(PAUSE_US)]
    env = {**os.environ, **(hub.env if hub else {})}
    return Child([*run, str(program), *words], env=env)


@contextmanager
def peers(program: Path, hub: Hub, barrier: str) -> Iterator[list[Child]]:
    """Two machines with the same contents, of one and of two processors."""
    if barrier != "park":
        require("uffd")
    with ExitStack() as running:
        yield [
            running.enter_context(machine(program, cpus=cpus, hub=hub, barrier=barrier))
            for cpus in (1, 2)
        ]


def assert_right(counts: dict[str, Any]) -> None:
    assert {name: counts[name] for name in WRONG} == dict.fromkeys(WRONG, 0), counts


def race(machines: Sequence[Child], *words: str, seconds: float = BRIEF) -> list[dict[str, Any]]:
    """Let guests and devices write for a while; what each machine counted."""
    for one in machines:
        one.question("race", milliseconds=round(seconds * 1000), **{"with": words})
    return [one.answer(seconds + PATIENCE) for one in machines]


def until_merged(hub: Hub, machines: Sequence[Child]) -> None:
    """Wait until each page of each machine is a slab's, by the kernel's account."""

    def merged() -> bool:
        return all(one["merged"] == PAGES for one in ask_all(machines, "count"))

    hub.until(merged, "merge all pages of the guests")


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_machine_alone_is_right(program: Path, cpus: int) -> None:
    """The test itself: nothing goes wrong where nobody merges, and each thing is looked at."""
    with machine(program, cpus=cpus) as one:
        assert one.ask("write", generation=1)["writes"] == 2 * PAGES  # by guest and device
        one.ask("write", generation=2, step=3)
        assert_right(one.ask("check"))
        (counts,) = race([one], "balloon", "dirty")
    assert_right(counts)
    for what in ("writes", "device_writes", "checked", "balloons", "logged"):
        assert counts[what] > 50 * BRIEF, counts


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("remap", {"lost", "stale"}),  # pages are copied and replaced without a barrier
        ("forget", {"missed_dirty"}),  # what one call of KVM_GET_DIRTY_LOG returned is dropped
        ("keep", {"unzeroed"}),  # what the guest gave up is not discarded
    ],
)
def test_a_mistake_is_told(program: Path, cpus: int, mistake: str, told: set[str]) -> None:
    with machine(program, cpus=cpus) as one:
        one.ask("write")
        (counts,) = race([one], "balloon", "dirty", mistake)
    assert all(counts[name] > 0 for name in told), counts


def known_as_merged(hub: Hub, machine: Child) -> int:
    row = hub.client(machine.pid)
    return row.merged_pages if row else 0


@pytest.mark.parametrize("barrier", BARRIERS)
def test_guests_that_write_what_was_merged(program: Path, hub: Hub, barrier: str) -> None:
    """Pages equal to a peer's are merged, read, written by guest and device, and merged again."""
    with peers(program, hub, barrier) as machines:
        for generation, step in ((0, 1), (1, 3), (2, 64)):
            for counts in ask_all(machines, "write", generation=generation, step=step):
                assert_right(counts)
            until_merged(hub, machines)
            for counts in ask_all(machines, "check"):
                assert_right(counts)
                assert counts["merged"] == PAGES  # reading separates nothing
        for one in machines:
            hub.until(lambda: known_as_merged(hub, one) == PAGES, "know it")  # noqa: B023


@pytest.mark.parametrize("barrier", BARRIERS)
@pytest.mark.parametrize("words", [(), ("balloon", "dirty")])
def test_no_write_of_a_guest_is_lost(
    program: Path, hub: Hub, barrier: str, words: tuple[str, ...]
) -> None:
    """Guests and devices write while their pages become equal and are merged."""
    with peers(program, hub, barrier) as machines:
        ask_all(machines, "write")
        raced(hub, machines, barrier, *words)


def test_a_disk_that_writes_past_the_processor(program: Path, hub: Hub, tmp_path: Path) -> None:
    """The device reads a file by direct I/O into pages that are merged: under ``move`` alone."""
    require("uffd")
    with peers(program, hub, "move") as machines:
        for number, one in enumerate(machines):
            one.ask("disk", path=str(tmp_path / f"disk{number}"))
        ask_all(machines, "write")
        raced(hub, machines, "move", "balloon", "dirty")


def raced(hub: Hub, machines: Sequence[Child], barrier: str, *words: str) -> None:
    """Race, and see that nothing went wrong though pages were merged and separated all the time."""
    answers = race(machines, *words, seconds=SECONDS)
    rows = [hub.client(one.pid) for one in machines]
    for counts, row in zip(answers, rows, strict=True):
        assert row is not None
        assert row.barrier == barrier
        print(barrier, words, row.merges, row.separations, counts)
        assert_right(counts)
        assert counts["writes"] > PAGES * SECONDS, counts
        assert row.merges > PAGES * SECONDS / 10, row
        assert row.separations > PAGES * SECONDS / 20, row
