"""Tells pages apart by their bytes: one repeated word, text, pointers (a heap), or another kind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORD, TEXT, POINTERS, UNKNOWN = range(4)

TEXT_SHARE = 0.9
"""Share of the bytes of a page of text that are printable, blanks, or part of UTF-8."""
LEAST_TEXT = 64
"""Bytes of text that a page has at least."""
POINTER_SHARE = 0.25
"""Share of the words other than zero of a heap's page that are addresses."""
LEAST_POINTERS = 16
"""Addresses that a page of a heap has at least."""

_IS_TEXT = np.zeros(256, np.bool_)
_IS_TEXT[32:127] = _IS_TEXT[[9, 10, 13]] = _IS_TEXT[128:248] = True
_LOWEST, _HIGHEST, _KERNEL = np.uint64(1 << 40), np.uint64(1 << 48), np.uint64(0xFFFF << 48)
"""Addresses that programs have on x86-64 and aarch64, and the lowest of a kernel."""
_MOST_PLACES = 8
"""Stretches of 4 GiB that the addresses in a page lie in: heaps refer to few, numbers to many."""


def classify(data: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return the kind of each page: int8[n] for u8[n, 4096]."""
    words = data.view(np.uint64)
    kinds = np.full(len(data), UNKNOWN, np.int8)
    filled = np.count_nonzero(words, axis=1)
    is_address = (words >= _LOWEST) & ((words < _HIGHEST) | (words >= _KERNEL))
    is_address &= words & np.uint64(7) == 0
    addresses = is_address.sum(axis=1)
    places = np.sort(np.where(is_address, words >> np.uint64(32), np.uint64(0)), axis=1)
    few = np.count_nonzero(places[:, 1:] != places[:, :-1], axis=1) <= _MOST_PLACES
    kinds[few & (addresses >= LEAST_POINTERS) & (addresses >= POINTER_SHARE * filled)] = POINTERS
    # A page that ends in zeros is text if what comes before them is.
    length = data.shape[1] - np.argmax(data[:, ::-1] != 0, axis=1)
    letters = (_IS_TEXT[data] & (data < 128)).sum(axis=1)
    textual = _IS_TEXT[data].sum(axis=1)
    is_text = (textual >= TEXT_SHARE * length) & (letters >= length // 2)
    kinds[is_text & (length >= LEAST_TEXT)] = TEXT
    kinds[(words == words[:, :1]).all(axis=1)] = WORD
    return kinds
