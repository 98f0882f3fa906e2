"""A client that shares objects: nested ones drawn by hypothesis, and those that a test names."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pagemerge
from pagemerge import _core
from pagemerge.demo.dialog import Answer, serve
from pagemerge.model import PAGE_SIZE

DTYPES = ("u1", "<i4", ">i4", "f8", "c16", "M8[s]", "S7", "bool", [("a", "u1"), ("b", "<f8", 3)])
SHAPES = ((), (0,), (3,), (0, 5), (4096,), (20_000,), (70, 80), (2, 3, 4), (11, 20, 30))
Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Record:
    """A dataclass with whatever is drawn."""

    first: Any
    second: Any


class Slotted:
    """A class with slots and a class attribute."""

    __slots__ = ("inner",)
    kind = "slotted"

    def __init__(self, inner: Any) -> None:
        self.inner = inner


@st.composite
def pools(draw: st.DrawFn) -> list[Any]:
    """Arrays of every kind, and views of them: objects name some of them several times."""
    found: list[Any] = []
    for _ in range(draw(st.integers(1, 3))):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        shape = draw(st.sampled_from(SHAPES))
        count = int(np.prod(shape, dtype=int)) * dtype.itemsize
        random = np.random.default_rng(draw(st.integers(0, 9)))
        raw = random.integers(0, 2, count, np.uint8).tobytes()
        base = np.frombuffer(bytearray(raw), dtype) if count else np.empty(0, dtype)
        base = base.reshape(shape, order=draw(st.sampled_from("CF")))
        found.append(base)
        for _ in range(draw(st.integers(0, 3))):
            cut = [
                slice(draw(st.integers(0, 9)), None, draw(st.sampled_from([1, 1, 2, -1, -3])))
                for _ in range(draw(st.integers(0, base.ndim)))
            ]
            view = base[tuple(cut)] if base.ndim else base[...]
            if draw(st.booleans()):
                view = view.T
            if draw(st.booleans()):
                view.flags.writeable = False
            if draw(st.integers(0, 4)) == 0:
                view = np.broadcast_to(view, (3, *view.shape))
            found.append(view)
    return found


@st.composite
def objects(draw: st.DrawFn) -> Any:
    """Nested objects of Python around arrays of one pool, and some of the pool beside them."""
    pool = draw(pools())
    leaves = st.one_of(
        st.sampled_from(pool),
        st.integers(),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.none(),
        st.sampled_from([np.float32(2), Record, len, frozenset({1, "x"}), 3 + 4j]),
    )
    nested = draw(
        st.recursive(
            leaves,
            lambda inner: st.one_of(
                st.lists(inner, max_size=4),
                st.lists(inner, max_size=4).map(tuple),
                st.dictionaries(st.text(max_size=3), inner, max_size=4),
                st.dictionaries(st.integers(), inner, max_size=3).map(OrderedDict),
                st.tuples(inner, inner).map(lambda it: Pair(*it)),
                st.tuples(inner, inner).map(lambda it: Record(*it)),
                inner.map(Slotted),
                inner.map(lambda it: (it, [it], it)),
            ),
            max_leaves=12,
        )
    )
    return nested, draw(st.lists(st.sampled_from(pool), min_size=1, max_size=4))


class Comparison:
    """Compares an object with its shared copy; ``arrays`` are those that it has met."""

    def __init__(self) -> None:
        self.met: dict[int, tuple[Any, Any]] = {}
        self.back: dict[int, int] = {}
        self.arrays: list[tuple[Any, Any]] = []

    def same(self, one: Any, other: Any) -> None:
        """Assert that type and value are the same, and that names of one thing stay that."""
        assert type(one) is type(other), (one, other)
        if isinstance(one, (int, str, bytes, complex, type(None), np.generic, type, type(len))):
            assert one == other
            return
        if id(one) in self.met:
            assert self.met[id(one)][1] is other
            return
        if not isinstance(one, (tuple, frozenset)):  # Python may keep one object for equal ones
            assert other is not one
            assert self.back.setdefault(id(other), id(one)) == id(one)
        self.met[id(one)] = one, other
        if isinstance(one, np.ndarray):
            self._array(one, other)
        elif isinstance(one, dict):
            assert list(one) == list(other)
            self._all(one.values(), other.values())
        elif isinstance(one, (list, tuple)):
            self._all(one, other)
        elif isinstance(one, Record):
            self._all((one.first, one.second), (other.first, other.second))
        elif isinstance(one, Slotted):
            self.same(one.inner, other.inner)
        else:
            assert one == other

    def views(self) -> None:
        """Assert that the memory of arrays overlaps where it did, and nowhere else."""
        for number, (one, made) in enumerate(self.arrays):
            assert not np.may_share_memory(one, made)
            for other, its in self.arrays[:number]:
                assert np.may_share_memory(one, other) == np.may_share_memory(made, its)

    def _all(self, ones: Any, others: Any) -> None:
        assert len(ones) == len(others)
        for one, other in zip(ones, others, strict=True):
            self.same(one, other)

    def _array(self, one: Any, other: Any) -> None:
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.tobytes() == other.tobytes()
        assert one.flags.writeable == other.flags.writeable
        if one.size:
            low, high = np.lib.array_utils.byte_bounds(other)
            if min(high - low, one.nbytes) >= PAGE_SIZE:
                assert _core.is_mergeable(low, high - low)
            self.arrays.append((one, other))


def check(obj: Any) -> bool:
    """Assert that a shared copy is the same; returns whether it has a buffer of a page."""
    comparison = Comparison()
    comparison.same(obj, pagemerge.share(obj))
    comparison.views()
    return any(one.nbytes >= PAGE_SIZE for one, _ in comparison.arrays)


def drawn(examples: int) -> Answer:
    """Share so many objects that hypothesis draws; returns how many had buffers of a page."""
    large = 0

    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(objects())
    def shared(obj: Any) -> None:
        nonlocal large
        large += check(obj)

    shared()
    return {"large": large}


def call(code: str) -> Any:
    """Run code in this process; its ``answer`` is the answer."""
    space: dict[str, Any] = {"pagemerge": pagemerge, "np": np, "check": check, "lies": lies}
    exec(code, space)
    return space.get("answer", {})


def lies(data: Any) -> bool:
    """Does an array, a tensor of torch, or a buffer of pyarrow lie in mergeable memory?"""
    if hasattr(data, "untyped_storage"):
        storage = data.untyped_storage()
        return _core.is_mergeable(storage.data_ptr(), storage.nbytes())
    if isinstance(data, np.ndarray):
        low, high = np.lib.array_utils.byte_bounds(data)
        return _core.is_mergeable(low, high - low)
    return _core.is_mergeable(data.address, data.size)


if __name__ == "__main__":
    serve({"drawn": drawn, "call": call})
