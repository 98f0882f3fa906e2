"""Pages that somebody is about to write: pinned before they are merged, written after."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.building import compile_victim
from tests.support.hubs import Hub
from tests.support.talker import talking

PAGES, KINDS, PAGE = 512, 8, 4096
CYCLES = 20
"""Cycles of the hub in which it may try to merge a pinned page."""

pytestmark = pytest.mark.requires("uffd")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    require("cc")
    made = tmp_path_factory.mktemp("pinner") / "pinner"
    return str(compile_victim("pinner.c", Path(made), "-pthread"))


@pytest.mark.parametrize("barrier", ["move", "write-protect", "park"])
def test_a_write_that_arrives_late_is_not_lost(hub: Hub, program: str, barrier: str) -> None:
    run = [sys.executable, "-m", "pagemerge", "run", "--barrier", barrier, "--"]
    with talking(*run, program, env=hub.env) as target:
        _, pid, address = target.hear().split()

        def merges() -> int:
            row = hub.client(int(pid))
            return row.merges if row else 0

        hub.until(lambda: target.tell("merged") == str(PAGES), "merge all pages")
        for page in (3, 12, 200):
            there = f"{int(address, 16) + page * PAGE:x}"
            with talking(program, "write", pid, there, str(ord("A")), env={}) as writer:
                assert writer.hear() == "pinned"
                # Equal to its slot, so worth merging again: but for the pin.
                scans = hub.status().full_scans
                hub.until(lambda: hub.status().full_scans > scans + CYCLES, "go on")  # noqa: B023
                assert writer.tell("") == "written"
            assert target.tell(f"check {page} {ord('A')}") == "ok"
        # Nothing holds these pages any more: equal again, they are merged again.
        before = merges()
        for page in (3, 12, 200):
            assert target.tell(f"fill {page} {ord('a') + page % KINDS}") == "ok"
        hub.until(lambda: merges() >= before + 3, "merge them again")
        for page in range(PAGES):
            assert target.tell(f"check {page} {ord('a') + page % KINDS}") == "ok"
