"""Blocks of which little is merged are huge pages; the oracle is the kernel's smaps."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.hub.settings import Settings
from tests.conftest import missing
from tests.support.building import VICTIMS
from tests.support.hubs import FAST, Hub

BLOCK = 512
PRICE = Settings().huge_price
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")

COMMON = [0, 4, PRICE - 1, BLOCK, BLOCK, PRICE, 0]
ZEROS = [0, 0, 0, 0, 0, 0, BLOCK - 9]
"""Pages of each block that two programs have in common, and pages of zeros."""
KEPT, WHOLE = 3, 2
"""Blocks that stay the program's own huge pages, and blocks that map one of a slab."""

pytestmark = pytest.mark.requires("uffd")


@pytest.fixture(autouse=True)
def _huge_pages() -> None:
    if not ENABLED.exists() or "[never]" in ENABLED.read_text():
        missing("hugepages", f"{ENABLED} gives out no transparent huge pages")


@pytest.fixture
def programs(hub: Hub) -> Iterator[list[Child]]:
    """Two programs under ``pagemerge run``."""
    with ExitStack() as running:
        yield [running.enter_context(program(hub)) for _ in "ab"]


def program(hub: Hub) -> Child:
    run = [sys.executable, "-m", "pagemerge", "run", "--engine", "user", "--"]
    argv = [*run, sys.executable, str(VICTIMS / "blocks.py")]
    return Child(argv, env={**os.environ, **hub.env})


def fill(hub: Hub, programs: list[Child], advice: str) -> None:
    """Have the programs fill their blocks; the hub sees none of them half full: it would merge that
    half into a slab of its own."""
    os.kill(hub.process.pid, signal.SIGSTOP)
    try:
        for one in programs:
            one.ask("fill", common=COMMON, zeros=ZEROS, advice=advice)
    finally:
        os.kill(hub.process.pid, signal.SIGCONT)


def huge(one: Child) -> tuple[int, int]:
    found = one.ask("huge")
    return found["anonymous"], found["slabs"]


def merged(hub: Hub, one: Child) -> tuple[int, int]:
    row = hub.client(one.pid)
    return (row.merged_pages, row.zero_pages) if row else (0, 0)


def assert_right(programs: list[Child]) -> None:
    for one in programs:
        assert one.ask("check") == {"wrong": 0}


def test_blocks_are_huge_where_little_is_merged(hub: Hub, programs: list[Child]) -> None:
    fill(hub, programs, "huge")
    wanted = (2 * BLOCK + PRICE, BLOCK - 9)
    hub.until(lambda: all(merged(hub, it) == wanted for it in programs), "merge what pays")
    hub.until(lambda: all(huge(it) == (KEPT, WHOLE) for it in programs), "make blocks huge")
    assert_right(programs)
    for one in programs:
        row = hub.client(one.pid)
        assert row is not None and row.skipped["huge"] == 4 + PRICE - 1, "what the price costs"
    # A page of a block that maps a slab's huge page is written: only that block gets small.
    first, other = programs
    first.ask("write", first=3 * BLOCK + 7, pages=3)
    hub.until(lambda: huge(first) == (KEPT, WHOLE - 1), "see the block small")
    assert huge(other) == (KEPT, WHOLE)
    # Pages of a block of its own are written: it stays huge.
    first.ask("write", first=5, pages=BLOCK - 9)
    assert huge(first) == (KEPT, WHOLE - 1)
    assert_right(programs)


def test_a_block_that_gets_duplicates_is_merged(hub: Hub, programs: list[Child]) -> None:
    """Both programs fill a block with contents of their own first, and then with equal ones."""
    for one in programs:
        one.ask("fill", common=[0, 0], zeros=[0, 0], advice="huge")
    hub.until(lambda: all(huge(it) == (2, 0) for it in programs), "make blocks huge")
    for one in programs:
        one.ask("equal", first=0, pages=BLOCK)
    hub.until(lambda: all(merged(hub, it) == (BLOCK, 0) for it in programs), "merge them")
    # Perhaps not all of it at once: then it has no block of a slab.
    assert all(huge(it)[0] == 1 for it in programs)
    assert_right(programs)


@pytest.mark.parametrize("advice", ["small", "none"])
def test_memory_that_would_have_no_huge_pages_gets_none(
    hub: Hub, programs: list[Child], advice: str
) -> None:
    if advice == "none" and "[always]" in ENABLED.read_text():
        pytest.skip("this host gives huge pages to all memory")
    fill(hub, programs, advice)
    wanted = (sum(COMMON), BLOCK - 9)
    hub.until(lambda: all(merged(hub, it) == wanted for it in programs), "merge everything")
    assert all(huge(it) == (0, 0) for it in programs)
    assert_right(programs)


def test_without_a_price_all_duplicates_are_merged(hub_socket: Path) -> None:
    wanted = (sum(COMMON), BLOCK - 9)
    with Hub(hub_socket, FAST + "huge_price = 0\n") as hub, ExitStack() as running:
        programs = [running.enter_context(program(hub)) for _ in "ab"]
        fill(hub, programs, "huge")
        hub.until(lambda: all(merged(hub, it) == wanted for it in programs), "merge everything")
        assert all(huge(it) == (0, 0) for it in programs)
        assert_right(programs)
