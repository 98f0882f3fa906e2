"""What a domain does at once, and what it puts off: the hub's spare time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import cast

import pytest

from pagemerge.hub import budget as budgets
from pagemerge.hub import domain as domains
from pagemerge.hub.budget import Budget
from pagemerge.hub.client import Client
from pagemerge.hub.domain import Members
from pagemerge.linux.domain import Domain


def work(seconds: float) -> None:
    """Take processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_what_yields_little_has_a_share_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "MOST_SPARE", 0.02)
    budget = Budget(share=1.0, idle_share=0.5)
    work(0.05)
    budget.rest(spare=0.0)
    assert budget.has_spare, "what yields much costs no spare time"
    work(0.05)
    budget.rest(spare=0.05)
    assert not budget.has_spare
    began = time.monotonic()
    while not budget.has_spare:
        assert time.monotonic() < began + 10, "no time is saved up"
        budget.rest(spare=0.0)
    assert time.monotonic() - began > 0.001


def test_spare_time_is_not_owed_without_end() -> None:
    budget = Budget(share=1.0, idle_share=1.0)
    budget.rest(spare=1000.0)
    assert not budget.has_spare
    time.sleep(budgets.MOST_SPARE_OWED)
    budget.rest(spare=0.0)
    assert budget.has_spare


def test_a_scan_is_a_look_at_somebody() -> None:
    domain = Members(Domain(0))
    for now in (1.0, 2.0):
        domain.end_cycle(now)
    assert (domain.cycles, domain.scans) == (2, 0)


def test_how_many_pages_are_worth_a_plan_depends_on_how_many_there_are() -> None:
    domain = Members(Domain(0))
    domain.pending = domains.FEW
    assert not domain.is_worth_a_plan(hurries=False)
    domain.pending += 1
    assert domain.is_worth_a_plan(hurries=False)
    large = SimpleNamespace(claimed=(1, 1000 * domains.FEW_OF))
    domain.clients.append(cast(Client, large))
    assert not domain.is_worth_a_plan(hurries=False)
    domain.pending += 1000 // domains.HURRY
    assert domain.is_worth_a_plan(hurries=True), "memory is short"
    assert not domain.is_worth_a_plan(hurries=False)
    domain.pending += 1000
    assert domain.is_worth_a_plan(hurries=False)


def test_even_spare_time_needs_more_pages_in_a_larger_domain() -> None:
    domain = Members(Domain(0))
    assert domain.least == 0, "one page is enough"
    large = SimpleNamespace(claimed=(1, 10 * domains.FEW_SPARE), merges=7)
    domain.clients += [cast(Client, large)] * 2
    assert (domain.least, domain.merges) == (20, 14)
