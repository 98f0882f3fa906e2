"""Choosing ranges to mark: against page-by-page bookkeeping of what is marked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.cli.show import selection as words
from pagemerge.errors import UsageError
from pagemerge.find.evidence import Evidence, _evidence
from pagemerge.find.process import Process
from pagemerge.find.sources import ProcessSource
from pagemerge.ksmd.decide.ranges import BRIDGE, SHARE, budget, choose
from pagemerge.ksmd.model import Selection
from pagemerge.ksmd.selecting import select
from pagemerge.linux.maps import Mapping
from pagemerge.model import PAGE_SIZE

ABSENT, UNIQUE, DUPLICATE = ".", "u", "D"
BASE = 1 << 20
"""Page number of the first mapping."""
APART = 5
"""Pages between two mappings."""


def evidence(*mappings: str, apart: int = APART) -> Evidence:
    """Of mappings that look so, a letter a page, ``apart`` pages from each other."""
    source, gain, at = ProcessSource(Process(1, "victim", 0)), [], BASE
    starts, pages = [], []
    for text in mappings:
        page = at
        runs = 0
        for there, letters in itertools.groupby(text, lambda letter: letter != ABSENT):
            run = list(letters)
            if there:
                starts.append(page * PAGE_SIZE)
                pages.append(len(run))
                gain += [0.5 * (letter == DUPLICATE) for letter in run]
                runs += 1
            page += len(run)
        if runs:
            extent = at * PAGE_SIZE, page * PAGE_SIZE
            source.mappings.append(Mapping(*extent, "rw-p", "00:00", 0, ""))
            source.runs.append(runs)
        at = page + apart
    source.starts, source.pages = np.array(starts, np.uint64), np.array(pages, np.uint64)
    source.mapped = len(mappings)
    return _evidence(source, np.array(gain, np.float32))


def shown(selection: Selection, *mappings: str) -> list[str]:
    """The mappings again, with what is marked in brackets; fails on what madvise would refuse."""
    marks: dict[int, str] = {}
    for start, end in zip(selection.start.tolist(), selection.end.tolist(), strict=True):
        assert start % PAGE_SIZE == end % PAGE_SIZE == 0
        assert start < end
        marks[start // PAGE_SIZE] = marks.get(start // PAGE_SIZE, "") + "["
        marks[end // PAGE_SIZE] = marks.get(end // PAGE_SIZE, "") + "]"
    lines, at = [], BASE
    for text in mappings:
        line = "".join(marks.pop(at + i, "") + letter for i, letter in enumerate(text))
        lines.append(line + marks.pop(at + len(text), ""))
        at += len(text) + APART
    assert not marks, "a range begins or ends outside of all mappings"
    return lines


@pytest.mark.parametrize(
    ("mapping", "marked"),
    [
        ("u" * 20 + "DDDD" + "u" * 20, "u" * 20 + "[DDDD]" + "u" * 20),
        ("u" * 20 + "DDuDD" + "u" * 20, "u" * 20 + "[DDuDD]" + "u" * 20),
        # Not even half would be duplicates: finer.
        ("u" * 20 + "DuuuuD" + "u" * 20, "u" * 20 + "[D]uuuu[D]" + "u" * 20),
        ("u" * 20 + "DuDuuuuuD" + "u" * 20, "u" * 20 + "[DuD]uuuuu[D]" + "u" * 20),
        # Near both edges.
        ("uuDDDDDDuu", "[uuDDDDDDuu]"),
        # Near enough to one of them, not to both.
        ("uuuuuDDDDDDuuuuu", "[uuuuuDDDDDD]uuuuu"),
        ("uuuDDu" + "u" * 30, "uuu[DD]u" + "u" * 30),
        # A hole costs nothing now, and is not bridged if it is wide.
        ("u" * 20 + "DD...DD" + "u" * 20, "u" * 20 + "[DD...DD]" + "u" * 20),
        ("u" * 9 + "D" + "." * 17 + "D" + "u" * 9, "u" * 9 + "[D]" + "." * 17 + "[D]" + "u" * 9),
        ("uuuu", "uuuu"),
        ("DDDD", "[DDDD]"),
    ],
)
def test_one_mapping(mapping: str, marked: str) -> None:
    selection = choose(evidence(mapping))
    assert shown(selection, mapping) == [marked]
    assert selection.left_out == 0


def test_mappings_that_touch_are_marked_apart() -> None:
    both = "uuuuuuuuuuDDDD", "DDDDuuuuuuuuuu"
    selection = choose(evidence(*both, apart=0))
    assert len(selection.start) == 2
    assert selection.mappings == 2
    assert selection.end[0] == selection.start[1]


def test_short_mappings_lower_the_share_before_they_leave_out() -> None:
    scattered = evidence("u" * 40 + "Duuu" * 50 + "u" * 40)
    assert choose(scattered).mappings == 100
    few = choose(scattered, most=10)
    assert (few.mappings, few.left_out, few.marked) == (2, 0, 197)
    wide = choose(evidence("u" * 100 + ("DD" + "u" * 18) * 50 + "u" * 100), most=10)
    assert (wide.mappings, wide.left_out) == (2, 0), "gaps wider than are bridged otherwise"
    apart = evidence("u" * 100 + "D" + "u" * 100 + "DD" + "u" * 100)
    least = choose(apart, most=3)
    assert (least.mappings, least.duplicates, least.left_out) == (2, 2, 1)
    whole = choose(evidence("u" * 50 + "DDD" + "u" * 50, "D"), most=0)
    assert (whole.mappings, whole.duplicates) == (0, 1), "a whole mapping costs nothing"


def test_whole_mappings_are_not_split() -> None:
    some = "uDDu", "uuDu", "u", "D.D"
    selection = choose(evidence(*some), whole=True)
    assert shown(selection, *some) == ["[uDDu]", "uuDu", "u", "[D.D]"]
    assert (selection.mappings, selection.left_out) == (0, 1)


def test_the_budget_keeps_a_reserve() -> None:
    some = evidence("D", "u")
    assert budget(some, 65530) == 65530 - 8191 - 2
    assert budget(some, 1) == 0


def test_a_process_that_could_not_be_looked_at() -> None:
    source = ProcessSource(Process(7, "gone", 0), error="it has exited")
    selection = choose(_evidence(source, np.empty(0, np.float32)), most=5)
    assert (selection.pid, selection.error, len(selection.start)) == (7, "it has exited", 0)


MAPPINGS = st.lists(
    st.lists(st.tuples(st.sampled_from("uD."), st.integers(1, 40)), min_size=1, max_size=12).map(
        lambda parts: "".join(letter * number for letter, number in parts)
    ),
    max_size=5,
)


@given(
    MAPPINGS,
    st.floats(0.05, 1),
    st.integers(0, 40),
    st.none() | st.integers(0, 20),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_figures_are_those_of_the_pages(
    mappings: list[str], share: float, bridge: int, most: int | None, apart: int, whole: bool
) -> None:
    seen_so = evidence(*mappings, apart=apart)
    selection = choose(seen_so, share=share, bridge=bridge, most=most, whole=whole)
    marked, pieces, at = "", 0, BASE
    start = (selection.start // PAGE_SIZE).astype(np.int64)
    end = (selection.end // PAGE_SIZE).astype(np.int64)
    assert (end > start).all()
    assert (start[1:] >= end[:-1]).all()
    seen = 0
    for text in mappings:
        inside = np.flatnonzero((start >= at) & (start < at + len(text)))
        assert (end[inside] <= at + len(text)).all(), "a range ends with its mapping"
        seen += len(inside)
        state = np.zeros(len(text), np.bool_)
        for i in inside.tolist():
            part = text[start[i] - at : end[i] - at]
            state[start[i] - at : end[i] - at] = True
            marked += part
            if most is None or whole:
                present = len(part) - part.count(ABSENT)
                assert part.count(DUPLICATE) >= share * present
            assert DUPLICATE in part
        pieces += int(np.count_nonzero(state[1:] != state[:-1]))
        at += len(text) + apart
    assert seen == len(start)
    everything = "".join(mappings)
    assert selection.mappings == pieces
    assert most is None or selection.mappings <= most
    assert selection.looked == len(everything) - everything.count(ABSENT)
    assert selection.marked == len(marked) - marked.count(ABSENT)
    assert selection.duplicates == marked.count(DUPLICATE)
    assert selection.gain == pytest.approx(0.5 * selection.duplicates)
    assert selection.left_out == everything.count(DUPLICATE) - selection.duplicates
    if whole:
        assert selection.mappings == 0
    elif most is None:
        assert selection.left_out == 0


def test_a_wide_gap_is_bridged_only_where_it_is_worth_it() -> None:
    for gap, ranges in ((BRIDGE, 1), (BRIDGE + 1, 2)):
        mapping = "u" * 50 + "D" * 40 + "u" * gap + "D" * 40 + "u" * 50
        assert len(choose(evidence(mapping)).start) == ranges
    assert SHARE == 0.5


def test_the_words_of_a_dry_run() -> None:
    chosen = choose(evidence("u" * 1000 + "D" * 1000, "uuu"))
    short = choose(evidence("u" * 100 + "D" + "u" * 100), most=1)
    assert words.sentence([chosen, short], done=False) == (
        "Marking 1 range of 1 process would save 2.0 MB; ksmd would look at 4.1 MB, "
        "45% of the 9.0 MB looked at."
    )
    assert words.sentence([chosen, short], done=True) == (
        "Marked 1 range of 1 process, to save 2.0 MB; ksmd looks at 4.1 MB, "
        "45% of the 9.0 MB looked at."
    )
    assert words.sentence([short], done=True) == "Nothing is worth marking in the 823 kB looked at."
    (note,) = words.notes([chosen, short])
    assert note.startswith("1 victim: 4.1 kB of duplicates are left out")
    assert "vm.max_map_count" in note
    (figures,) = words.figures([chosen])
    start = (BASE + 1000) * PAGE_SIZE
    assert figures["ranges"] == [[start, start + 1000 * PAGE_SIZE]]
    assert figures["saveable_bytes"] == 500 * PAGE_SIZE
    assert figures["new_mappings"] == 1
    assert figures["looked_at_pages"] == 2003


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_one(share: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        select([], share=share)
