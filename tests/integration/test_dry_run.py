"""``daemon --dry-run`` promises what the hub then does: one plan, by the same limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child
from tests.conftest import Spawn
from tests.support.hubs import FAST, Hub
from tests.support.members import run

PAGES = 2048
SCATTER = """
equal = np.arange(0, len(member.wanted), 2)
member.wanted[equal] = equal * 2**32 + 1
member.memory[equal] = member.wanted[equal, None]
"""
"""Has each other page equal in all processes; those between them are this process's own."""

pytestmark = pytest.mark.requires("uffd")


def members(hub: Hub, victim: Spawn) -> list[Child]:
    both = [victim("member", env=hub.env) for _ in "ab"]
    for number, one in enumerate(both):
        one.ask("fill", pages=PAGES, seed=2 + number)
        run(one, SCATTER)
    return both


def merged(hub: Hub, both: list[Child]) -> list[int]:
    rows = [hub.client(one.pid) for one in both]
    return [row.merged_pages if row else -1 for row in rows]


def promised(log: str) -> dict[int, tuple[int, int]]:
    """Process -> pages and mappings, as of the last plan that was told."""
    told = re.findall(r"process (\d+): ([\d,]+) pages would be shared by ([\d,]+) mappings", log)
    number = {pid: (pages, mappings) for pid, pages, mappings in told}
    return {
        int(pid): (int(pages.replace(",", "")), int(mappings.replace(",", "")))
        for pid, (pages, mappings) in number.items()
    }


def look(hub: Hub) -> None:
    """Wait until all that there is has been looked at, and planned."""
    scans = hub.status().full_scans
    hub.until(lambda: hub.status().full_scans > scans + 20, "look again")


@pytest.mark.parametrize(
    ("limit", "pages"),
    [("", PAGES // 2), ("least_run = 2\n", 0), ("client_share = 1e-9\nuser_share = 1e-9\n", 0)],
    ids=["nothing", "least_run", "quota"],
)
def test_a_dry_run_promises_what_is_merged(
    hub_socket: Path, victim: Spawn, limit: str, pages: int
) -> None:
    config = FAST + limit
    with Hub(hub_socket.with_name("dry"), config, arguments=["--dry-run"]) as dry:
        both = members(dry, victim)
        look(dry)
        expected = {one.pid: (pages, pages) for one in both}
        assert promised(dry.log()) == expected
        for one in both:
            one.close()
    with Hub(hub_socket, config) as hub:
        both = members(hub, victim)
        if pages:
            hub.until(lambda: merged(hub, both) == [pages] * 2, "do so")
        look(hub)
        assert merged(hub, both) == [pages] * 2
        status = hub.status()
        assert status.store_bytes == pages * 4096, "and no slab is filled in vain"
        assert [one.ask("check") for one in both] == [{"wrong": 0}] * 2
