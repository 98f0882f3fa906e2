"""What KSM's counters make of pages, on a few that anybody can count, and by brute force."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from benchmarks.lab.counted import Counted, counted, frames_of
from hypothesis import given
from hypothesis import strategies as st

from pagemerge._core import ABSENT, ZERO

A, B = 1 << 40, 2 << 40
"""Digests."""


def of(*pages: tuple[int, int], zeros: bool, most: int = 4) -> Counted:
    digests = np.array([digest for digest, _ in pages], np.uint64)
    frames = np.array([frame for _, frame in pages], np.uint64)
    return counted(digests, frames, most, zeros)


@pytest.mark.parametrize("zeros", [True, False])
def test_what_a_fork_shares_counts_if_it_is_merged(zeros: bool) -> None:
    assert of((A, 7), (A, 7), (B, 8), zeros=zeros) == Counted(0, 0)
    assert of((A, 7), (A, 7), (A, ABSENT), zeros=zeros) == Counted(0, 1)
    assert of((A, ABSENT), (A, ABSENT), (A, ABSENT), zeros=zeros) == Counted(0, 0)


def test_a_stable_page_has_so_many_mappings() -> None:
    assert of(*[(A, ABSENT)] * 4, zeros=True) == Counted(0, 0)
    assert of(*[(A, ABSENT)] * 5, zeros=True) == Counted(1, 0)
    assert of(*[(A, 7)] * 8, (A, ABSENT), zeros=True) == Counted(1, 7)


def test_zeros_take_frames_only_if_they_are_like_others() -> None:
    pages = [(ZERO, ABSENT)] * 5 + [(ZERO, 7)] * 2
    assert of(*pages, zeros=True) == Counted(0, 1)
    assert of(*pages, zeros=False) == Counted(2, 1)
    assert of((ZERO, 7), (ZERO, 7), zeros=False) == Counted(1, 0)


pages = st.tuples(st.sampled_from([ABSENT, ZERO, A, B]), st.sampled_from([ABSENT, 7, 8, 9]))


@given(st.lists(pages, max_size=20), st.integers(2, 5), st.booleans())
def test_it_is_what_brute_force_says(drawn: list[tuple[int, int]], most: int, zeros: bool) -> None:
    groups = defaultdict(list)
    for number, (digest, frame) in enumerate(drawn):
        groups[digest].append(frame or -number - 1)
    limit = forked = 0
    for digest, frames in groups.items():
        kernels = digest == ZERO and zeros
        stay = 0 if kernels else min(-(-len(frames) // most), len(set(frames)))
        if digest != ABSENT and (len(set(frames)) > 1 or kernels):
            limit += stay - (digest != ZERO)
            forked += len(frames) - len(set(frames))
        elif digest == ZERO:
            limit += stay
    assert of(*drawn, zeros=zeros, most=most) == Counted(limit, forked)


def test_frames_of_groups() -> None:
    names = np.array([7, 7, ABSENT, ABSENT, 7, 8], np.uint64)
    assert frames_of(names, np.array([0, 4, 4, 6])).tolist() == [3, 0, 2]
    assert frames_of(names[:0], np.array([0, 0])).tolist() == [0]
