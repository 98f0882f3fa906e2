"""Tells pages apart by their bytes: one repeated word, text, pointers (a heap), or another kind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORD, TEXT, POINTERS, UNKNOWN = range(4)

TEXT_SHARE = 0.9
"""Share of the bytes of a page of text that are printable, blanks, or part of UTF-8."""
POINTER_SHARE = 0.25
"""Share of the words other than zero of a heap's page that are addresses of user space."""
LEAST_POINTERS = 16
"""Addresses that a page of a heap has at least."""

_IS_TEXT = np.zeros(256, np.bool_)
_IS_TEXT[32:127] = _IS_TEXT[[9, 10, 13]] = _IS_TEXT[128:248] = True
_LOWEST, _HIGHEST = np.uint64(1 << 22), np.uint64(1 << 47)
"""Addresses that a program can have on x86-64 and aarch64 (48 bits), less the first 4 MiB."""


def classify(data: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return the kind of each page: int8[n] for u8[n, 4096]."""
    words = data.view(np.uint64)
    kinds = np.full(len(data), UNKNOWN, np.int8)
    filled = np.count_nonzero(words, axis=1)
    addresses = ((words >= _LOWEST) & (words < _HIGHEST) & (words & np.uint64(7) == 0)).sum(axis=1)
    kinds[(addresses >= LEAST_POINTERS) & (addresses >= POINTER_SHARE * filled)] = POINTERS
    # A page that ends in zeros is text if what comes before them is.
    some = np.count_nonzero(data, axis=1)
    letters = (_IS_TEXT[data] & (data < 128)).sum(axis=1)
    textual = _IS_TEXT[data].sum(axis=1)
    kinds[(textual >= TEXT_SHARE * some) & (letters >= some // 2) & (some >= 64)] = TEXT
    kinds[(words == words[:, :1]).all(axis=1)] = WORD
    return kinds
