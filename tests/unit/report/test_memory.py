"""The bar of all memory: its parts are the figures', and together they are all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.report import memory
from pagemerge.report.given import Given, Room
from pagemerge.report.shapes import Stack
from tests.support import figures

PAGE = 4096
COUNTS = st.integers(0, 10_000)


def widths(drawn: Stack) -> dict[str, float]:
    """Colour -> percent of the width."""
    return {it.colour: float(it.width.rstrip("%")) for it in drawn.segments}


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_parts_are_all_memory(
    zero: int, within: int, across: int, shared: int, stays: int, barred: int
) -> None:
    saves = (zero + within + across) * PAGE
    kinds = {"zero": zero * PAGE, "within": within * PAGE, "across": across * PAGE}
    totals = {
        "pages": zero + within + across + shared + stays,
        "already_shared_pages": shared,
        "saveable_bytes": saves,
        "saveable_bytes_by_kind": kinds,
        "ineligible_bytes": barred * PAGE,
    }
    found = memory.section(Given({"totals": totals, "page_size": PAGE}), Room())
    if found is None:
        assert not totals["pages"] and not barred
        return
    drawn = found.content
    assert isinstance(drawn, memory.Memory)
    parts = {"zero": zero, "within": within, "across": across, "shared": shared}
    parts |= {"unique": stays, "barred": barred}
    whole = sum(parts.values())
    there = {key: 100 * part / whole for key, part in parts.items() if part}
    assert widths(drawn.stack) == pytest.approx(there, abs=1e-3)
    can = whole - barred
    assert (drawn.enlarged is not None) == (0 < can < memory.ENLARGED * whole)
    if drawn.enlarged:
        assert sum(widths(drawn.enlarged).values()) == pytest.approx(100, abs=0.01)


def test_the_answer_comes_first() -> None:
    told = memory.answer(Given(figures.host()))
    assert told.head == "Merging would save 461 MB"
    assert told.below == "of 4.02 GB looked at in 36 processes: 11%"
    told = memory.answer(Given({"sample": figures.sample()}))
    assert told.head == "Merging would save about 5.45 GB"
    assert memory.answer(Given({})).head == "No memory was looked at"
    alone = {"totals": {"pages": 5}, "processes": [{"pid": None, "name": "dump.raw"}]}
    told = memory.answer(Given(alone))
    assert told.head == "Merging would save nothing"
    assert told.below == "of 20.5 kB looked at in 1 memory image: 0%"


def test_rows_that_are_left_out_are_not_counted() -> None:
    host = figures.host() | {"processes_left_out": 9}
    assert memory.answer(Given(host)).below == "of 4.02 GB looked at: 11%"


def test_words_name_what_was_saved_before() -> None:
    found = memory.section(Given(figures.host()), Room())
    assert found is not None
    told = " ".join(found.words)
    assert "168 MB are zero pages, 97.8 MB are duplicates within a process and 196 MB" in told
    assert "Saved before, and not counted above: 101 MB that pagemerge has merged and" in told
    assert "12.1 GB cannot be merged, as mapped by each process." in told
