"""Digests of pages that lie in our own memory."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pagemerge import _core
from pagemerge.errors import UsageError
from pagemerge.model import PAGE_SIZE


def digests(data: bytes, seed: int = 7) -> list[int]:
    out = np.zeros(len(data) // PAGE_SIZE, np.uint64)
    _core.digest(data, seed, out)
    return [int(value) for value in out]


def test_equal_pages_have_equal_digests() -> None:
    source = random.Random(1)
    one, other = source.randbytes(PAGE_SIZE), source.randbytes(PAGE_SIZE)
    a, b, c = digests(one + other + one)
    assert a == c != b
    assert min(a, b) > _core.ZERO > _core.ABSENT


def test_one_bit_makes_another_digest() -> None:
    page = bytearray(random.Random(2).randbytes(PAGE_SIZE))
    seen = set(digests(bytes(page)))
    for bit in range(0, 8 * PAGE_SIZE, 61):
        page[bit // 8] ^= 1 << bit % 8
        seen.update(digests(bytes(page)))
        page[bit // 8] ^= 1 << bit % 8
    assert len(seen) == 1 + len(range(0, 8 * PAGE_SIZE, 61))


def test_zero_pages_are_exact() -> None:
    almost = bytes(PAGE_SIZE - 1) + b"\1"
    zero, other = digests(bytes(PAGE_SIZE) + almost)
    assert zero == _core.ZERO != other


def test_reference_values() -> None:
    # XXH3_64bits_withSeed of the reference implementation, xxHash 0.8.4.
    page = bytes(range(256)) * 16
    assert digests(page, 0) == [0xEB4B7C3707879151]
    assert digests(page, 0x123456789ABCDEF0) == [0x2BACF2471700117D]


def test_the_seed_counts() -> None:
    page = b"x" * PAGE_SIZE
    assert digests(page, 1) != digests(page, 2)


def test_wrong_buffers_are_refused() -> None:
    page, out = bytes(PAGE_SIZE), np.zeros(1, np.uint64)
    with pytest.raises(UsageError, match="pages"):
        _core.digest(page[1:], 0, out)
    with pytest.raises(UsageError, match="64-bit"):
        _core.digest(page, 0, out.astype(np.uint32))
    out.flags.writeable = False
    with pytest.raises(UsageError, match="writable"):
        _core.digest(page, 0, out)
    with pytest.raises(UsageError, match="contiguous"):
        _core.digest(page * 2, 0, np.zeros(4, np.uint64)[::2])
    both = np.zeros(512, np.uint64)
    with pytest.raises(UsageError, match="overlaps"):
        _core.digest(both.view(np.uint8), 0, both[:1])
