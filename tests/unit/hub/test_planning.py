"""Plans: what a quota refuses is left out, and what is set aside for a plan is given back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.hub.client import Client
from pagemerge.hub.decide import plan
from pagemerge.hub.model import NO_SLOT, ZERO_SLOT, Candidates, Layout
from pagemerge.hub.planning import Plan, Share

FIRST_NEW = 100


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30), st.data())
def test_slots_that_are_not_admitted_leave_no_gap(
    pages: list[tuple[int, bool]], data: st.DataObject
) -> None:
    """Each page is of one of six groups; some groups are known to the store already."""
    known = data.draw(st.sets(st.integers(0, 5)))
    numbers = {group: at for at, group in enumerate(sorted({g for g, _ in pages} - known))}
    slot = [FIRST_NEW + numbers[g] if g in numbers else g for g, _ in pages]
    slot = [ZERO_SLOT if zero else it for it, (_, zero) in zip(slot, pages, strict=True)]
    donors = np.arange(len(numbers), dtype=np.int64) + 7
    admitted = data.draw(st.lists(st.booleans(), min_size=len(donors), max_size=len(donors)))
    layout = Layout(np.array(slot, np.uint32), donors, FIRST_NEW)
    found = layout.only(np.array(admitted, np.bool_))
    assert found.donors.tolist() == [it for it, good in zip(donors, admitted, strict=True) if good]
    for before, after in zip(slot, found.slot.tolist(), strict=True):
        if not FIRST_NEW <= before < FIRST_NEW + len(donors):
            assert after == before
        elif admitted[before - FIRST_NEW]:
            assert after == FIRST_NEW + sum(admitted[: before - FIRST_NEW])
        else:
            assert after == NO_SLOT


def made() -> tuple[Plan, SimpleNamespace]:
    """A plan of four pages of one client: two zero pages, two of three new slots."""
    slot = np.array([ZERO_SLOT, 100, 102, ZERO_SLOT], np.uint32)
    address = np.arange(4, dtype=np.uint64) * np.uint64(4096)
    found = Candidates(np.zeros(4, np.uint32), address, np.arange(4, dtype=np.uint64) + 5)
    client = SimpleNamespace(pid=42, promised=3)
    share = Share(
        cast(Client, client),
        np.arange(4, dtype=np.int64),
        np.array([2, 4], np.int64),
        np.array([0, 2], np.int64),
    )
    layout = Layout(slot, np.array([1, 2, 2], np.int64), FIRST_NEW)
    return Plan(found, layout, [share], 2), client


def test_what_is_set_aside_is_given_back_however_it_ends() -> None:
    found, client = made()
    with found:
        assert client.promised == 5
        found.shares[0].release(1)
        assert client.promised == 3, "a stage that is carried out needs nothing set aside"
    assert client.promised == 3
    found, client = made()
    with pytest.raises(ZeroDivisionError), found:
        raise ZeroDivisionError
    assert client.promised == 3


def test_a_plan_says_what_it_would_do() -> None:
    found, client = made()
    assert found.used().tolist() == [True, False, True]
    (row,) = found.describe()
    assert (row.pid, row.pages, row.zero_pages) == (42, 2, 2)
    assert (row.mappings, row.new_slots) == (2, 2), "a slot that no client maps is not filled"
    assert client.promised == 3, "a dry run sets nothing aside"


def test_runs_of_pages_stay_runs_without_the_slots_between() -> None:
    address = np.arange(3, dtype=np.uint64) * np.uint64(4096)
    layout = Layout(np.array([100, 101, 102], np.uint32), np.arange(3, dtype=np.int64), FIRST_NEW)
    left = layout.only(np.array([True, False, True])).slot
    kept = np.flatnonzero(left != NO_SLOT)
    runs = plan.runs(address[kept], left[kept], np.ones(2, np.uint64))
    assert runs.pages.tolist() == [1, 1], "not neighbours in memory"
