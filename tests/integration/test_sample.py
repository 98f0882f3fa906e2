"""Samples of real processes: what has changed in them, and whether it stands still."""

from __future__ import annotations

import pytest

from pagemerge.ksmd.sample import Sample
from tests.conftest import Spawn

PAGES = 16384


def test_change_is_seen_and_then_stands_still(victim: Spawn) -> None:
    one, other = victim("sharer", "plain"), victim("sharer", "plain")
    for each in (one, other):
        each.ask("fill", seed=1, shared=PAGES, own=0)
    sample = Sample([one.pid, other.pid])
    assert sample.compare().still == 0
    one.ask("rewrite", seed=2, first=0, pages=PAGES // 2)
    seen = sample.compare()
    assert seen.moving == pytest.approx(0.25, abs=0.1)
    assert seen.still < 0.05
    seen = sample.compare()
    assert seen.moving < 0.05
    assert seen.still == pytest.approx(0.25, abs=0.1)


def test_who_has_gone_counts_no_more(victim: Spawn) -> None:
    one, other = victim("sharer", "plain"), victim("sharer", "plain")
    for each in (one, other):
        each.ask("fill", seed=1, shared=PAGES, own=0)
    sample = Sample([one.pid, other.pid])
    one.close()
    assert sample.compare().moving < 0.05
    other.ask("rewrite", seed=2, first=0, pages=PAGES)
    sample.compare()
    assert sample.compare().still > 0.8


def test_nobody_is_there() -> None:
    seen = Sample([]).compare()
    assert (seen.still, seen.moving) == (0, 0)
