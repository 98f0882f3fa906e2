"""The hub's records of a real hub's clients: small, and within their bounds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.model import PAGE_SIZE
from tests.support.building import compile_victim
from tests.support.hubs import FAST, Hub

pytestmark = pytest.mark.requires("uffd", "cc")
HOST = os.sysconf("SC_PHYS_PAGES")
PAGES = 8192


@pytest.fixture(scope="module")
def filler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_victim("filler.c", tmp_path_factory.mktemp("victims") / "filler")


@contextmanager
def filled(hub: Hub, filler: Path, count: int, promised: int) -> Iterator[list[Child]]:
    """Programs that have filled some of the memory that they have."""
    run = [sys.executable, "-m", "pagemerge", "run", "--quiet", "--", str(filler), str(PAGES)]
    with ExitStack() as stack:
        found = []
        for number in range(1, count + 1):
            words = [*run, str(number), "1e12", str(promised)]
            found.append(stack.enter_context(Child(words, env={**os.environ, **hub.env})))
            assert found[-1].ask("fill") == {"wrong": 0}
        yield found


def until_merged(hub: Hub, running: list[Child]) -> None:
    """All but the pages that each has alone."""
    wanted = {it.pid for it in running}

    def done() -> bool:
        rows = [it for it in hub.status().clients if it.pid in wanted]
        pages = [it.merged_pages + it.zero_pages for it in rows]
        return len(pages) == len(wanted) and min(pages) >= PAGES // 32 * 31

    hub.until(done, "merge all programs")


def test_guests_may_promise_many_times_the_hosts_memory(hub: Hub, filler: Path) -> None:
    """Six of almost the host's memory: all of them are merged, and the records take little."""
    with filled(hub, filler, 6, HOST // 10 * 9) as running:
        until_merged(hub, running)
        hub.until(lambda: hub.status().metadata_bytes < 16 << 20, "keep its records small")
        records = hub.status().metadata_bytes
        assert 0 < records < 6 * HOST // 10 * 9, "a byte for each page"
        resident = int(Path(f"/proc/{hub.pid}/statm").read_text().split()[1]) * PAGE_SIZE
        assert resident < 200 << 20
        assert all(one.ask("check") == {"wrong": 0} for one in running)


def test_beyond_their_bound_records_are_forgotten_and_merging_goes_on(
    hub_socket: Path, filler: Path
) -> None:
    share = 64 * PAGE_SIZE / (HOST * PAGE_SIZE)
    config = f"{FAST}records_share = {share:.12f}\n"
    with Hub(hub_socket, config) as hub, filled(hub, filler, 3, PAGES) as running:
        until_merged(hub, running)
        hub.until(lambda: "records_share" in hub.log(), "say that it forgets")
        assert all(one.ask("check") == {"wrong": 0} for one in running)
