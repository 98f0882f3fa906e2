"""What each source adds to the others, against counting by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from pagemerge._core import ABSENT, ZERO
from pagemerge.estimate.classes import classes
from pagemerge.estimate.marginal import marginal

PAGES = some.lists(some.lists(some.tuples(some.integers(0, 7), some.integers(0, 5)), max_size=9))
"""Sources of pages: digest (0 absent, 1 zero) and frame; pages of one frame get one content."""


def arrays(sources: list[list[tuple[int, int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digests, frames, offsets. A frame has the content that its first page has."""
    content: dict[int, int] = {}
    digests, frames = [], []
    for digest, frame in (page for source in sources for page in source):
        digests.append(content.setdefault(frame, digest) if frame else digest)
        frames.append(frame << 40 if digests[-1] != ABSENT else ABSENT)
    offsets = np.cumsum([0] + [len(source) for source in sources])
    return np.array(digests, np.uint64), np.array(frames, np.uint64), offsets


def test_by_hand() -> None:
    # Two sources: zeros, an own content twice, one in common, one that could not be read.
    digests = np.array([1, 5, 5, 7, 9, 7, 1, 1, 0], np.uint64)
    found = marginal(digests, np.zeros(9, np.uint64), np.array([0, 5, 9]))
    assert found.pages.tolist() == [5, 4]
    assert found.zero.tolist() == [1, 2]
    assert found.own.tolist() == [2, 1]  # 5 once, and 9; the one that could not be read
    assert found.shareable.tolist() == [2, 1]
    assert found.runs.tolist() == [1, 1]
    assert found.mapped.tolist() == [0, 0]


def test_a_frame_that_one_source_maps_twice_is_its_own() -> None:
    digests, frames = np.array([5, 5, 6], np.uint64), np.array([9, 9, 0], np.uint64)
    found = marginal(digests, frames, np.array([0, 2, 3]))
    assert found.mapped.tolist() == [0, 0]
    assert found.own.tolist() == [1, 1]


def test_pages_shared_since_a_fork_add_nothing() -> None:
    digests, frames = np.array([5, 6, 5, 8], np.uint64), np.array([9, 0, 9, 0], np.uint64)
    found = marginal(digests, frames, np.array([0, 2, 4]))
    assert found.mapped.tolist() == [1, 1]
    assert found.own.tolist() == [1, 1]


@given(PAGES)
def test_own_is_what_merging_would_free_without_the_source(
    sources: list[list[tuple[int, int]]],
) -> None:
    digests, frames, offsets = arrays(sources)
    found = marginal(digests, frames, offsets)
    for at in range(len(sources)):
        here = range(int(offsets[at]), int(offsets[at + 1]))
        elsewhere = [page for page in range(len(digests)) if page not in here]
        others = {int(digests[page]) for page in elsewhere}
        mapped = {int(frames[page]) for page in elsewhere if frames[page]}
        own = {
            int(digests[page])
            for page in here
            if digests[page] > ZERO
            and int(digests[page]) not in others
            and int(frames[page]) not in mapped
        }
        unread = sum(digests[page] == ABSENT for page in here)
        assert found.own[at] == len(own) + unread
        assert found.zero[at] == sum(digests[page] == ZERO for page in here)


@given(PAGES)
def test_each_frame_is_in_one_class(sources: list[list[tuple[int, int]]]) -> None:
    digests, frames, _ = arrays(sources)
    found = classes(digests, frames)
    first = [
        digest != ABSENT and (not frame or frame not in frames[:at])
        for at, (digest, frame) in enumerate(zip(digests, frames, strict=True))
    ]
    assert (found.zero.astype(int) + found.kept + found.freed).tolist() == first
    contents = {int(it) for it in digests if it > ZERO}
    assert sorted(digests[found.kept].tolist()) == sorted(contents)
    assert all(digests[found.freed] > ZERO)


@pytest.mark.parametrize("sources", [0, 1, 3])
def test_empty_sources(sources: int) -> None:
    nothing = np.empty(0, np.uint64)
    found = marginal(nothing, nothing, np.zeros(sources + 1, np.int64))
    assert found.own.tolist() == found.pages.tolist() == [0] * sources
