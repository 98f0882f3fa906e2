"""Counting known words, against counting them one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge import _core
from pagemerge.estimate import occurrences
from pagemerge.estimate.occurrences import Occurrences

# Few values, so that they meet; some differ in the lower bits only, which the table does not know.
WORDS = st.one_of(
    st.integers(0, 9),
    st.integers(0, 9).map(lambda high: high << 60),
    st.integers(0, 9).map(lambda low: (1 << 64) - 1 - low),
)
Lists = st.lists(WORDS, max_size=60)


@given(Lists, Lists, st.randoms())
def test_as_one_by_one(known: list[int], stream: list[int], random: object) -> None:
    marks = [random.random() < 0.5 for _ in stream]  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(occurrences, "STEP", 16)
        found = Occurrences(np.array(known, np.uint64), 2)
        found.count(np.array(stream, np.uint64), np.array(marks, np.bool_))
        assert not found.counts.any(), "not settled yet"
        found.settle(True)
    words = sorted({word for word in known if word > _core.ZERO})
    assert found.words.tolist() == words
    every = Counter(stream)
    marked = Counter(word for word, mark in zip(stream, marks, strict=True) if mark)
    assert found.counts.tolist() == [[every[it] for it in words], [marked[it] for it in words]]
    slots = found.slots(np.array(stream, np.uint64)).tolist()
    assert slots == [words.index(it) if it in words else -1 for it in stream]


def test_what_is_forgotten_does_not_count() -> None:
    found = Occurrences(np.array([7, 9], np.uint64), 1)
    found.count(np.array([7, 7, 9], np.uint64))
    found.settle(True)
    found.count(np.array([7, 9, 9], np.uint64))
    found.settle(False)
    found.settle(True)
    assert found.counts.tolist() == [[2, 1]]
