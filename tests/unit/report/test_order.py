"""The order of the matrix: clusters stand together, whatever order they came in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pagemerge.report.order import clustered, levels, likeness


def clusters(
    sizes: list[int], seed: int, scale: list[float] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pages in common of groups in clusters, shuffled, and the cluster of each group."""
    draw = np.random.default_rng(seed)
    whose = np.repeat(np.arange(len(sizes)), sizes)
    draw.shuffle(whose)
    same = whose[:, None] == whose[None, :]
    most = np.array(scale or [1000.0] * len(sizes))[whose]
    common = np.where(same, draw.uniform(0.5, 1, same.shape), draw.uniform(0, 0.1, same.shape))
    common = np.triu(common * np.sqrt(np.outer(most, most)), 1)
    return common + common.T, whose


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [None, [1e6, 1e2, 1e4, 10.0]])
def test_clusters_stand_together(seed: int, scale: list[float] | None) -> None:
    common, whose = clusters([17, 8, 20, 5], seed, scale)
    order = clustered(common)
    changes = np.count_nonzero(np.diff(whose[order]))
    assert changes == 3, "each cluster is one stretch"


def test_a_chain_is_laid_out_straight() -> None:
    """Each group shares with its neighbours only: the best order is the chain itself."""
    place = np.random.default_rng(3).permutation(12)
    apart = np.abs(place[:, None] - place[None, :])
    order = place[clustered(np.where(apart == 1, 100.0, 0.0))]
    assert np.mean(np.abs(np.diff(order)) == 1) > 0.7


@given(st.integers(0, 12), st.integers(0, 1 << 32))
def test_every_row_is_there_once(count: int, seed: int) -> None:
    common = np.triu(np.random.default_rng(seed).integers(0, 3, (count, count)), 1).astype(float)
    assert sorted(clustered(common + common.T)) == list(range(count))


def test_likeness_is_a_part() -> None:
    common = np.array([[9.0, 4, 0], [4, 9, 0], [0, 0, 9]])
    assert np.array_equal(likeness(common), [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert common[0, 0] == 9, "the argument is as it was"


def test_levels_are_thirds() -> None:
    common = np.array([[0, 900, 300], [900, 0, 1e-3], [300, 1e-3, 0]])
    assert np.array_equal(levels(common, 6), [[0, 6, 5], [6, 0, 1], [5, 1, 0]])
    assert not levels(np.zeros((2, 2)), 6).any()
