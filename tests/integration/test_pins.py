"""Pages that somebody is about to write: pinned before they are merged, written after."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.building import compile_victim
from tests.support.hubs import PATIENCE, Hub

PAGES, KINDS, PAGE = 512, 8, 4096
CYCLES = 20
"""Cycles of the hub in which it may try to merge a pinned page."""

pytestmark = pytest.mark.requires("uffd")


class Talker:
    """A victim that answers each line with one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def tell(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(PATIENCE), "the victim does not answer"
        return self.process.stdout.readline().strip()


@contextmanager
def talking(*argv: str, env: dict[str, str]) -> Iterator[Talker]:
    """Run a victim; it is killed at the end."""
    process = subprocess.Popen(
        argv,
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield Talker(process)
    finally:
        process.kill()
        process.communicate()


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
