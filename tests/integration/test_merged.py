"""What is merged now, by page tables, beside what KSM counts: the counters of this host's ksmd."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge.ksmd.merged import sharing_pages
from tests.conftest import Spawn
from tests.support import ksm as lab

PAGES = 4096
PATIENCE = 60.0

pytestmark = [pytest.mark.requires("kernel"), pytest.mark.requires("root")]


@pytest.fixture
def ksm() -> Iterator[lab.Ksm]:
    """Kernel KSM for this test alone; put back as it was."""
    with lab.borrowed() as kernel:
        yield kernel


def scan(ksm: lab.Ksm, scans: int) -> None:
    """ksmd scans everything so many times, and stands again."""
    deadline, enough = time.monotonic() + PATIENCE, ksm.full_scans + scans
    ksm.start(**lab.FLAT_OUT, smart_scan=0)
    while ksm.full_scans < enough:
        assert time.monotonic() < deadline, "ksmd does not scan"
        os.sched_yield()
    ksm.write("run", 0)


def test_it_is_what_ksmd_counts_and_stays_right_while_that_stands(
    ksm: lab.Ksm, victim: Spawn
) -> None:
    victims = [victim("sharer", "merge") for _ in "abc"]
    pids = [one.pid for one in victims]
    assert sharing_pages(pids) == 0
    for one in victims:
        one.ask("fill", seed=1, shared=PAGES, own=PAGES // 4)
    scan(ksm, 4)
    assert sharing_pages(pids) == ksm.sharing >= 2 * PAGES
    others = ksm.sharing - 2 * PAGES

    victims[0].ask("rewrite", seed=2, first=0, pages=PAGES // 2)
    victims[2].close()
    assert ksm.sharing == 2 * PAGES + others, "the kernel has not noticed: this test is about that"
    live = sharing_pages(pids)
    assert live is not None
    # Two share one half still; of the other half each has a copy, or is alone with the stable page.
    assert live == pytest.approx(PAGES // 2, abs=others)
    scan(ksm, 2)
    assert sharing_pages(pids) == ksm.sharing


def test_who_has_gone_counts_nothing(ksm: lab.Ksm, victim: Spawn) -> None:
    one = victim("sharer", "merge")
    one.close()
    assert sharing_pages([one.pid]) == 0


def test_it_is_not_told_where_the_kernel_does_not_name_frames(
    ksm: lab.Ksm, victim: Spawn, tmp_path: Path
) -> None:
    one = victim("sharer", "merge")
    assert sharing_pages([one.pid], tmp_path) is None
