"""Arrays of programs: NumPy's allocator, copies, and what is unmerged and merged again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pagemerge.errors import PagemergeError
from tests.conftest import Spawn
from tests.support.hubs import Hub
from tests.support.members import PAGES, member_of, merged, run


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
    if array.size and (array.flags.c_contiguous or array.flags.f_contiguous):
        same = same and made.strides == array.strides
    if not same or not made.flags.writeable:
        bad.append(number)
answer = dict(bad=bad)
"""
    assert run(member, code) == {"bad": []}
    run(member, "pagemerge.intern(pagemerge.empty(10)); pagemerge.intern(np.ones(0))")
    for wrong, cure in (
        ("pagemerge.intern(np.ones(1 << 16))", "pagemerge.copy"),
        ("pagemerge.intern(np.ones(10))", "pagemerge.copy"),
        ("pagemerge.intern(np.array([object()]))", "references"),
        ("pagemerge.unmerge(np.array([object()]))", "references"),
        ("pagemerge.copy(np.array([object()]))", "references"),
        ("pagemerge.copy([object()])", "references"),
        ("pagemerge.copy(np.array(['a'], np.dtypes.StringDType()))", "references"),
        ("pagemerge.empty(3, object)", "references"),
        ("pagemerge.empty((-1, -5))", "cannot be"),
        ("pagemerge.intern([1, 2])", "numpy array"),
        ("pagemerge.intern(np.ones((512, 512))[::2, ::2])", "contiguous"),
        ("pagemerge.unmerge(np.ones(1 << 16))", "not mergeable"),
        ("pagemerge.buffer(0)", "0 bytes"),
        ("pagemerge.buffer(-1)", "-1 bytes"),
        ("pagemerge.buffer(1 << 70)", "bytes"),
    ):
        with pytest.raises(PagemergeError, match=f"UsageError: .*{cure}"):
            run(member, wrong)


def test_a_copy_keeps_what_it_was_given_or_refuses(hub: Hub, victim: Spawn) -> None:
    member = member_of(hub, victim)
    code = """
import tempfile
texts = np.array([b"a\\0b\\0", b"c"], "S8")
fortran = np.asfortranarray(np.arange(40000.0).reshape(4, 100, 100))
with tempfile.NamedTemporaryFile() as file:
    mapped = np.memmap(file, np.int32, shape=(5000,)); mapped[:] = range(5000)
    of_file = pagemerge.copy(mapped)
memory = pagemerge.buffer(3); memoryview(memory)[:] = b"xy\\0"
numbers = np.arange(3)
records = pagemerge.empty(5, "(2,3)i4")
answer = dict(
    texts=pagemerge.copy(texts).tobytes() == texts.tobytes(),
    text=pagemerge.copy(texts[0]).tobytes() == texts[0].tobytes(),
    fortran=pagemerge.copy(fortran).flags.f_contiguous,
    mapped=type(of_file) is np.ndarray and (of_file == range(5000)).all().item(),
    bytes=pagemerge.copy(b"a\\0\\0").tolist(),
    bytearray=pagemerge.copy(bytearray(b"b\\0")).tolist(),
    memory=pagemerge.copy(memory).tolist(), scalar=pagemerge.copy(7).item(),
    shapes=[records.shape, pagemerge.empty(np.int64(3)).shape, pagemerge.empty(2, "S").shape],
    matrix=type(pagemerge.empty((512, 8)).view(np.matrix)).__name__,
)
"""
    assert run(member, code) == {
        "texts": True,
        "text": True,
        "fortran": True,
        "mapped": True,
        "bytes": [97, 0, 0],
        "bytearray": [98, 0],
        "memory": [120, 121, 0],
        "scalar": 7,
        "shapes": [[5, 2, 3], [3], [2]],
        "matrix": "matrix",
    }
    frame = """
class Frame:
    def __array__(self, dtype=None, copy=None): return np.ones(3)
pagemerge.copy(Frame())
"""
    for wrong, cure in (
        ("pagemerge.copy(np.ma.masked_array([1, 2], [True, False]))", r"\.mask"),
        ("pagemerge.copy(np.matrix([[1]]))", "asarray"),
        ("pagemerge.copy(np.rec.array([(1, 2)]))", "asarray"),
        (frame, "not a Frame"),
        ("pagemerge.copy('text')", "zeros"),
        ("pagemerge.copy([b'a'])", "zeros"),
    ):
        with pytest.raises(PagemergeError, match=f"UsageError: .*{cure}"):
            run(member, wrong)


def test_all_of_a_matrix_is_interned_and_unmerged(hub: Hub, victim: Spawn) -> None:
    code = """
def slabbed():
    member.memory = array.reshape(-1).view(np.uint8)
    return member.slabbed()["slabbed"]
array = pagemerge.empty((8, 512)); array[:] = np.arange(512)
matrix = array.view(np.matrix)
answer = dict(kind=type(pagemerge.intern(matrix)).__name__, merged=slabbed())
pagemerge.unmerge(matrix)
answer["left"] = slabbed()
"""
    member = member_of(hub, victim)
    assert run(member, code) == {"kind": "matrix", "merged": 8, "left": 0}


def test_memory_that_is_short_is_a_memory_error_with_its_size(hub: Hub, victim: Spawn) -> None:
    member = member_of(hub, victim)
    code = """
answer = {}
for name, make in (
    ("buffer", lambda: pagemerge.buffer(1 << 47)),
    ("empty", lambda: pagemerge.empty((1 << 22, 1 << 22))),
    ("copy", lambda: pagemerge.copy(np.broadcast_to(np.uint8(1), 1 << 47))),
):
    try:
        make()
    except MemoryError as error:
        answer[name] = str(error)
"""
    found = run(member, code)
    assert set(found) == {"buffer", "empty", "copy"}, found
    for name in ("buffer", "empty"):
        assert str(1 << 47) in str(found[name])


def test_stats_waits_for_the_hub_that_it_has_started(hub_socket: Path) -> None:
    code = "import pagemerge; kept = pagemerge.buffer(1); print(len(pagemerge.stats().clients))"
    env = {**os.environ, "PAGEMERGE_SOCKET": str(hub_socket), "PAGEMERGE_AUTOSTART": "1"}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    env |= {"PAGEMERGE_AUTOSTART": "0", "PAGEMERGE_SOCKET": f"{hub_socket}.none"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert "HubError" in done.stderr


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
