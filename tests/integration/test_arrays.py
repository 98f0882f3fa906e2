"""Arrays of programs: NumPy's allocator, copies, and what is unmerged and merged again."""

from __future__ import annotations

import pytest

from pagemerge.errors import PagemergeError
from tests.conftest import Spawn
from tests.hubs import Hub
from tests.members import PAGES, member_of, merged, run


def test_numpy_on_mergeable_memory(hub: Hub, victim: Spawn) -> None:
    member = member_of(hub, victim)
    code = """
import gc, threading
from pagemerge import _core
def mergeable(array):
    return _core.is_mergeable(array.ctypes.data, array.nbytes)
with pagemerge.mergeable_arrays():
    zeros, small = np.zeros(1 << 17), np.zeros(8)
    grown = np.arange(1 << 16)
    grown.resize(1 << 18, refcheck=False)
    shrunk = np.arange(1 << 18)
    shrunk.resize(100, refcheck=False)
    cast = np.arange(1 << 18).astype(np.float32)
    made = []
    thread = threading.Thread(target=lambda: made.append(np.ones(1 << 17)))
    thread.start(); thread.join()
outside = np.zeros(1 << 17)
grown.resize(1 << 19, refcheck=False)  # with the handler it was made with
good = [
    (zeros == 0).all(), (grown[: 1 << 16] == np.arange(1 << 16)).all(),
    (grown[1 << 16 :] == 0).all(), (shrunk == np.arange(100)).all(),
    (cast == np.arange(1 << 18)).all(), (made[0] == 1).all(),
    mergeable(zeros), mergeable(grown), mergeable(cast), not mergeable(outside),
]
pagemerge.intern(grown); pagemerge.intern(zeros)
good += [(grown[1 << 16 :] == 0).all(), (zeros == 0).all()]
before = _core.agent_summary()["regions"]
del zeros, grown, shrunk, cast, made; gc.collect()
answer = dict(good=[bool(it) for it in good], freed=before - _core.agent_summary()["regions"])
"""
    found = run(member, code)
    assert all(found["good"]), found
    assert found["freed"] >= 3


def test_copies_of_every_shape(hub: Hub, victim: Spawn) -> None:
    member = member_of(hub, victim)
    code = """
big = np.arange(6000.0).reshape(60, 100)
record = np.zeros(3000, np.dtype([("a", "u1"), ("b", "f8"), ("c", "S3")])); record["b"] = 7
arrays = [
    big, big.T, big[::2, 3::7], np.asfortranarray(big), big[1:, 1:], np.array(3.5), big[:0],
    np.empty((0, 5)), record, record[::2], np.arange(4097, dtype="u1")[1:], np.ones(1, "u1"),
    np.arange(3000).astype("M8[s]"), np.arange(5000, dtype=">i4"), np.zeros(9999, bool),
    np.arange(9000, dtype="c16"),
]
bad = []
for number, array in enumerate(arrays):
    made = pagemerge.copy(array)
    same = made.shape == array.shape and made.dtype == array.dtype and (made == array).all()
    if not same or not made.flags.writeable:
        bad.append(number)
answer = dict(bad=bad)
"""
    assert run(member, code) == {"bad": []}
    run(member, "pagemerge.intern(pagemerge.empty(10)); pagemerge.intern(np.ones(0))")
    for wrong, cure in (
        ("pagemerge.intern(np.ones(1 << 16))", "pagemerge.copy"),
        ("pagemerge.intern(np.ones(10))", "pagemerge.copy"),
        ("pagemerge.copy(np.array([object()]))", "references"),
        ("pagemerge.empty(3, object)", "references"),
        ("pagemerge.empty((-1, -5))", "cannot be"),
        ("pagemerge.intern([1, 2])", "numpy array"),
        ("pagemerge.intern(np.ones((512, 512))[::2, ::2])", "contiguous"),
        ("pagemerge.unmerge(np.ones(1 << 16))", "not mergeable"),
        ("pagemerge.buffer(0)", "0 bytes"),
    ):
        with pytest.raises(PagemergeError, match=f"UsageError: .*{cure}"):
            run(member, wrong)


def test_unmerge_beside_a_writer_and_merging_again(hub: Hub, victim: Spawn) -> None:
    member = member_of(hub, victim)
    member.ask("intern")
    assert merged(member)
    member.ask("scribble")
    for _ in range(20):
        member.ask("unmerge")
    assert member.ask("check") == {"wrong": 0}
    assert member.ask("slabbed") == {"slabbed": 0}
    member.ask("intern")
    assert merged(member)
    member.ask("write", first=10, pages=100, seed=9)
    assert member.ask("slabbed")["slabbed"] == PAGES - 100
    member.ask("intern")
    assert merged(member)
    assert member.ask("check") == {"wrong": 0}
