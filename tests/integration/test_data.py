"""share, load and dump: whole objects and files in mergeable memory, in real processes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagemerge.demo.dialog import Child
from pagemerge.errors import PagemergeError
from pagemerge.hub.reach import fetch_status
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn
from tests.support.hubs import Hub
from tests.support.libraries import installed

EXAMPLES = 60
PATIENCE = 100.0
"""Seconds that drawing and sharing them, or merging, may take on a busy host."""


@pytest.fixture
def sharer(hub: Hub, victim: Spawn) -> Child:
    """A process that shares what a test tells it to."""
    return victim("objects", env=hub.env)


def run(child: Child, code: str) -> Any:
    """Run code in the process; ``answer`` is its answer."""
    return child.ask("call", code=code)


def test_any_object_is_the_same_after_sharing(sharer: Child) -> None:
    found = sharer.ask("drawn", examples=EXAMPLES, patience=PATIENCE)
    assert found["large"] > EXAMPLES / 20


def test_kinds_of_arrays(sharer: Child) -> None:
    code = """
big = np.arange(100_000.0)
late = np.zeros((3000, 300))[:, ::2]; late[5] = 7  # in pieces, without gaps
record = np.rec.array(np.zeros(5000, [("a", "i4"), ("b", "S3")]))
masked = np.ma.masked_array(big, big % 2 == 0, fill_value=5, hard_mask=True)
named = big.view(type("Named", (np.ndarray,), {})); named.unit = "m"
objects = np.array([1, "a", big, None], object); objects.flags.writeable = False
memory = pagemerge.buffer(5000); memoryview(memory)[:4] = b"abcd"
whole = np.frombuffer(memoryview(memory), "u1")
one = [late, record, masked, np.matrix(np.eye(100)), named, objects, memory, whole, big]
two = pagemerge.share(one)
assert [type(it) for it in one] == [type(it) for it in two]
for number in (0, 1, 3, 4, 7, 8):
    assert one[number].tobytes() == two[number].tobytes() and one[number].dtype == two[number].dtype
    assert lies(two[number].view(np.ndarray)), number
assert (two[2].data == big).all() and (two[2].mask == masked.mask).all() and two[2].hardmask
assert two[2].fill_value == 5 and lies(two[2].data) and lies(two[2].mask)
assert two[4].unit == "m" and two[5][2] is two[8] and not two[5].flags.writeable
assert bytes(two[6]) == bytes(memory) and two[6] is not memory
two[7][0] = 9
assert bytes(two[6])[0] == 9 and bytes(memory)[0] == 97
"""
    run(sharer, code)


def test_what_of_python_stays(sharer: Child) -> None:
    code = """
import enum, functools, tempfile
class Local:
    pass
it = Local(); it.me = it; it.call = lambda: 3; it.table = np.ones(9000); it.text = "x" * 9000
with tempfile.NamedTemporaryFile() as file:
    mapped = np.memmap(file, "u1", shape=(9000,))
    kept = [Local, it.call, len, np, mapped, it.text, b"x" * 9000, np.dtype("M8[s]"), ...]
    made = pagemerge.share([it, *kept])
assert type(made[0]) is Local and made[0].me is made[0] and lies(made[0].table)
assert all(one is two for one, two in zip(kept, made[1:])) and made[0].call is it.call
assert pagemerge.share(7) == 7 and pagemerge.share({1, "a"}) == {1, "a"}
"""
    run(sharer, code)


STUBBORN = """
class Copier:
    def __init__(self): self.sum = 50_000.0
    def __getstate__(self): return (np.ones(50_000),)
    def __setstate__(self, state): self.sum = state[0].sum()
class Texter:
    def __reduce__(self): return (Texter.made, (b"x" * 400_000,))
    @staticmethod
    def made(data): return Texter()
class Liar:
    def __reduce__(self): return (int, ())
class Broken:
    def __setstate__(self, state): raise ValueError("no")
    def __getstate__(self): return 1
def deep():
    made = []
    for _ in range(100_000): made = [made]
    return made
"""
"""Types whose objects cannot be shared."""


def test_what_cannot_be_shared_is_named_or_left(sharer: Child) -> None:
    run(sharer, "pagemerge.share(b'x' * 200_000)")  # too little to matter
    for wrong, cause in (
        ("b'x' * 300_000", r"300000 bytes of bytes .*np\.frombuffer"),
        ("{'a': [bytearray(300_000)]}", r"300000 bytes of bytearray"),
        ("__import__('threading').Lock()", r"type _thread\.lock cannot be copied"),
        ("[memoryview(b'abc')]", "type memoryview cannot be copied"),
        ("np.zeros(100_000, np.dtypes.StringDType())", "StringDType"),
        ("Copier()", r"400000 bytes of .*Copier .*copies them to memory of its own"),
        ("Texter()", r"400000 bytes of .*Texter .*pickles its data"),
        ("Liar()", "would be a int"),
        ("Broken()", r"cannot be put together again \(no\)"),
        ("deep()", "nested too deeply"),
    ):
        with pytest.raises(PagemergeError, match=f"UsageError: .*{cause}"):
            run(sharer, f"{STUBBORN}\npagemerge.share({wrong})")
        if not wrong.startswith(("Liar", "Broken", "deep")):
            made = f"one = [{wrong}, np.ones(9000)]; two = pagemerge.share(one, strict=False)"
            run(sharer, f"{STUBBORN}\n{made}\nassert type(one[0]) is type(two[0]) and lies(two[1])")


def test_pandas(sharer: Child) -> None:
    installed("pandas", "pyarrow")
    code = """
import pandas as pd
n = 20_000
frame = pd.DataFrame({
    "number": np.arange(n), "text": [str(i) for i in range(n)],
    "set": pd.Series([{1}] * n, dtype=object),
    "kind": pd.Categorical(list("ab") * (n // 2)), "maybe": pd.array([1, None] * (n // 2), "Int64"),
    "time": pd.date_range("2020", periods=n, freq="s", tz="UTC"), "x": np.random.rand(n),
    "arrow": pd.array(range(n), "int32[pyarrow]"), "period": pd.period_range("2020", periods=n),
    "interval": pd.arrays.IntervalArray.from_breaks(np.arange(n + 1)), "y": np.random.rand(n),
    "sparse": pd.arrays.SparseArray(np.arange(n) % 7),
}, index=np.arange(n) * 3)
frame.attrs["unit"] = "m"
made = pagemerge.share(frame)
pd.testing.assert_frame_equal(frame, made)
assert made.attrs == frame.attrs and made.flags == frame.flags
for name in ("number", "x", "y"):
    assert lies(made[name].to_numpy()), name
for part in (made["kind"].array._ndarray, made["maybe"].array._data, made["maybe"].array._mask,
             made["time"].array._ndarray, made["period"].array._ndarray, made.index.to_numpy(),
             made["sparse"].array.sp_values, made["interval"].array.left.to_numpy()):
    assert lies(part)
for name in ("text", "arrow"):
    found = made[name].array
    if hasattr(found, "_pa_array"):
        buffers = [it for chunk in found._pa_array.chunks for it in chunk.buffers() if it]
        assert buffers and all(lies(it) for it in buffers), name
made.loc[3, "x"] = 99.0
assert frame.loc[3, "x"] != 99.0
series = pagemerge.share(frame["x"]); pd.testing.assert_series_equal(series, frame["x"])
many = frame.set_index(["number", "text"])
pd.testing.assert_frame_equal(pagemerge.share(many), many)
"""
    run(sharer, code)


def test_pyarrow(sharer: Child) -> None:
    installed("pyarrow")
    code = """
import pyarrow as pa
n = 20_000
table = pa.table({"x": np.arange(n), "s": [str(i) for i in range(n)], "l": [[i] for i in range(n)],
                  "d": pa.array(list("ab") * (n // 2)).dictionary_encode()}, metadata={"k": "v"})
one = [table, table["x"], table["x"].chunk(0).to_numpy(), table.slice(5, 99), table.to_batches()[0]]
two = pagemerge.share(one)
for left, right in zip(one, two):
    assert type(left) is type(right)
    assert (left == right).all() if isinstance(left, np.ndarray) else left.equals(right)
for column in two[0].columns:
    for buffer in column.chunk(0).buffers():
        assert buffer is None or lies(buffer)
two[0].validate(full=True)
assert two[0].schema.equals(table.schema, check_metadata=True)
assert np.shares_memory(two[2], two[0]["x"].chunk(0).to_numpy()) and not two[2].flags.writeable
"""
    run(sharer, code)


def test_scipy_and_sklearn(sharer: Child) -> None:
    installed("scipy", "sklearn")
    code = """
import scipy.sparse as sparse
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
for form in ("csr", "csc", "coo", "bsr", "dok", "lil"):
    one = sparse.random_array((300, 300), density=0.1, format=form)
    two = pagemerge.share(one)
    assert type(one) is type(two) and (one != two).nnz == 0
    assert form in ("dok", "lil") or lies(two.data)
rows = np.random.default_rng(1).random((3000, 40)); kinds = (rows[:, 0] > 0.5).astype(int)
for model in (KNeighborsClassifier(algorithm="kd_tree"), SVC(), PCA(30)):
    model.fit(rows, kinds)
    made, verb = pagemerge.share(model), "transform" if isinstance(model, PCA) else "predict"
    assert type(made) is type(model)
    assert (getattr(made, verb)(rows) == getattr(model, verb)(rows)).all()
forest = RandomForestClassifier(40, random_state=1).fit(rows, kinds + 2 * (rows[:, 1] > 0.4))
try:
    pagemerge.share(forest)
except pagemerge.UsageError as error:
    answer = {"refused": str(error)}
made = pagemerge.share(forest, strict=False)
assert (made.predict(rows) == forest.predict(rows)).all()
"""
    assert re.search(
        r"sklearn\.tree\._tree\.Tree .*memory of its own", run(sharer, code)["refused"]
    )


def test_torch(sharer: Child, tmp_path: Path) -> None:
    installed("torch", "ml_dtypes")
    code = f"""
import torch
folder = {str(tmp_path)!r} + "/"
base = torch.randn(300, 300)
leaf = torch.randn(2000, requires_grad=True); (leaf * leaf).sum().backward()
tied = torch.nn.Sequential(torch.nn.Linear(90, 90), torch.nn.Linear(90, 90))
tied[1].weight = tied[0].weight
one = [base, base.T, base[5:9], base.numpy(), leaf, torch.randn(5000).bfloat16(), torch.empty(0, 3)]
two, net = pagemerge.share([one, tied])
for left, right in zip(one, two):
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right) and left.stride() == right.stride()
        assert left.requires_grad == right.requires_grad
        assert not right.numel() or lies(right)
two[0][5, 0] = 77
assert two[1][0, 5] == two[2][0, 0] == two[3][5, 0] == 77 != base[5, 0]
assert torch.equal(leaf.grad, two[4].grad) and net[0].weight is net[1].weight
assert lies(net[0].weight)
try:
    pagemerge.share(leaf * 2)
except pagemerge.UsageError as error:
    answer = {{"refused": str(error)}}
tensors = {{"half": one[5], "base": base, "none": one[6]}}
pagemerge.dump(tensors, folder + "x.safetensors")
made = pagemerge.load(folder + "x.safetensors", tensors="torch")
assert all(torch.equal(made[name], tensors[name]) for name in tensors)
assert lies(made["base"])
half = pagemerge.load(folder + "x.safetensors")["half"]
assert half.dtype.name == "bfloat16"
assert half.view("u2").tolist() == one[5].view(torch.uint16).tolist()
pagemerge.dump(one, folder + "x.pages")
made = pagemerge.load(folder + "x.pages", allow_pickle=True)
assert made[1].data_ptr() == made[0].data_ptr() and torch.equal(made[5], one[5])
"""
    assert "detach" in run(sharer, code)["refused"]


def test_files_of_many_pages(sharer: Child, tmp_path: Path) -> None:
    code = f"""
import pickle
path = {str(tmp_path)!r} + "/"
big = np.random.default_rng(1).random((3000, 1000))  # 24 MB: two pieces
things = {{
    "a.npy": np.asfortranarray(big), "b.npz": {{"big": big, "few": np.arange(9)}},
    "c.safetensors": {{"big": big, "odd": np.ones(4097, "u1")}},
    "d.pages": {{"big": big, "view": big[5:], "gaps": big[:, ::3], "memory": pagemerge.buffer(10)}},
    "e.pkl": [big],
}}
for name, thing in things.items():
    pagemerge.dump(thing, path + name)
    made = pagemerge.load(path + name, allow_pickle=True)
    assert type(made) is type(thing)
    arrays = [(thing, made)] if name == "a.npy" else zip(
        thing.values() if isinstance(thing, dict) else thing,
        made.values() if isinstance(made, dict) else made)
    for one, two in arrays:
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype and (one == two).all(), name
            assert two.nbytes < 4096 or lies(two), name
        else:
            assert bytes(one) == bytes(two) and type(one) is type(two)
    if name == "d.pages":
        made["view"][0, 0] = -1
        assert made["big"][5, 0] == -1
np.savez_compressed(path + "f.npz", big=big)
assert (pagemerge.load(path + "f.npz")["big"] == big).all()
"""
    run(sharer, code)


def test_arrow_and_parquet_files(sharer: Child, tmp_path: Path) -> None:
    installed("pyarrow")
    code = f"""
import pyarrow as pa, pyarrow.feather, pyarrow.parquet
path = {str(tmp_path)!r} + "/"
n = 50_000
table = pa.table({{"x": np.arange(n), "s": [str(i) for i in range(n)],
                  "d": pa.array(list("ab") * (n // 2)).dictionary_encode()}})
pagemerge.dump(table, path + "a.arrow")
pa.feather.write_feather(table, path + "b.feather")  # compressed
pa.parquet.write_table(table, path + "c.parquet", row_group_size=20_000)
for name in ("a.arrow", "b.feather", "c.parquet"):
    made = pagemerge.load(path + name)
    assert made.equals(table), name
    for column in made.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                assert buffer is None or buffer.size < 4096 or lies(buffer), name
"""
    run(sharer, code)


LOADER = """
import builtins
builtins.kept = pagemerge.load({path!r})
answer = {{"sum": float(kept.sum())}}
"""
PSS = """
import re
kept.sum()  # what the hub has just merged is in no page table until it is read
start, pss, inside = kept.ctypes.data, 0, False
for line in open("/proc/self/smaps"):
    if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
        inside = start <= int(found[1], 16) < start + kept.nbytes
    elif inside and line.startswith("Pss:"):
        pss += int(line.split()[1]) * 1024
answer = {"pss": pss}
"""


def test_two_processes_keep_one_copy_of_a_file(hub: Hub, victim: Spawn, tmp_path: Path) -> None:
    array = np.random.default_rng(1).random((1500, 1024))  # 12.3 MB, whole pages
    path = str(tmp_path / "x.npy")
    np.save(path, array)
    members = [victim("objects", env=hub.env) for _ in range(2)]
    for member in members:
        assert run(member, LOADER.format(path=path)) == {"sum": array.sum()}
    half = pytest.approx(array.nbytes / 2, rel=0.05)
    deadline = time.monotonic() + PATIENCE
    while (found := [run(member, PSS)["pss"] for member in members]) != [half, half]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    status = fetch_status()
    assert status.store_bytes == array.nbytes
    assert status.pages_sharing == array.nbytes // PAGE_SIZE
    # A write gives the writer a page of its own.
    run(members[0], "kept[0, 0] = 5.0")
    assert run(members[1], "answer = {'first': float(kept[0, 0])}") == {"first": array[0, 0]}
    assert (np.load(path) == array).all()


def test_the_import_is_light() -> None:
    code = (
        "import sys, pagemerge; print(*{'numpy', 'msgspec', 'pandas', 'pickle'} & {*sys.modules})"
    )
    argv = [sys.executable, "-c", code]
    assert subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout == b"\n"
