"""What a page takes in zram; the integration test compares with a real one."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pagemerge.errors import Unsupported
from pagemerge.estimate.zram import (
    compressed_bytes,
    compressors,
    held_bytes,
    same_filled,
    unfilled_bytes,
)


def test_size_classes() -> None:
    # By hand: class 48 has 256 objects in 3 pages, class 3632 has 9 in 8; objects are 8 bytes
    # smaller than their class.
    sizes = np.array([0, 1, 24, 25, 40, 2040, 3609, 3624, 3625, 4096])
    held = held_bytes(sizes)
    assert held[:6].tolist() == [0, 32, 32, 48, 48, 2048]
    assert held[6] == held[7]
    assert held[7] == pytest.approx(8 * 4096 / 9)
    assert held[8:].tolist() == [4096, 4096]
    every = held_bytes(np.arange(4097))
    assert (np.diff(every) >= 0).all()
    assert (every[1:] >= np.arange(1, 4097)).all()
    assert (every[1:3625] <= np.arange(1, 3625) * 1.13 + 40).all()


def test_same_filled_pages_take_nothing() -> None:
    pages = np.zeros((4, 4096), np.uint8)
    pages[1] = 7
    pages[2].view(np.uint64)[:] = 0x0102030405060708
    pages[3, 4095] = 1
    assert same_filled(pages).tolist() == [True, True, True, False]
    for method in compressors().values():
        assert held_bytes(compressed_bytes(pages, method))[:3].tolist() == [0, 0, 0]
        assert 0 < held_bytes(compressed_bytes(pages, method))[3] < 100


def test_random_bytes_are_kept_whole() -> None:
    pages = np.random.default_rng(1).integers(0, 256, (3, 4096), dtype=np.uint8)
    for method in compressors().values():
        assert compressed_bytes(pages, method).tolist() == [4096] * 3
        assert held_bytes(compressed_bytes(pages, method)).tolist() == [4096.0] * 3


@pytest.mark.parametrize("library", ["lz4.block", "zstandard"])
def test_a_library_that_is_missing_is_named_with_the_cure(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Unsupported, match=r'`pip install "pagemerge\[estimate\]"`'):
        compressors()


def test_half_a_chain_of_each_class_in_use_is_not_filled() -> None:
    assert unfilled_bytes(np.array([0, 4096, 3625])) == 0
    assert unfilled_bytes(np.array([2040, 2039, 0])) == 4096 / 2
    assert unfilled_bytes(np.array([2040, 40, 33])) == 4096 / 2 + 3 * 4096 / 2
