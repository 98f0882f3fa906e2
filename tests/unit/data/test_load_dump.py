"""Files are loaded as they were dumped, or not at all. All buffers here are below one page."""

from __future__ import annotations

import os
import pickle
import resource
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pagemerge
from pagemerge.data.files import needed
from pagemerge.errors import OutOfMemory, PagemergeError, Unsupported, UsageError
from tests.support.libraries import library

ARRAY = np.arange(20.0).reshape(4, 5)
EXAMPLES: dict[str, Callable[[], Any]] = {
    "a.npy": lambda: ARRAY,
    "b.npz": lambda: {"a": ARRAY, "b": ARRAY[:2], "ü/x": np.arange(3, dtype="u1")},
    "c.safetensors": lambda: {"a": ARRAY, "b": np.arange(3, dtype="u1"), "c": np.zeros((0, 2))},
    "d.arrow": lambda: table(),
    "e.parquet": lambda: table(),
    "f.pages": lambda: {"a": ARRAY, "view": ARRAY[1:], "n": [1, None, "x"]},
    "g.pickle": lambda: [ARRAY, {"x": 1}],
}


def table() -> Any:
    """A table of pyarrow, if that is installed."""
    pyarrow = library("pyarrow")
    return pyarrow.table({"x": [1, 2, 3], "s": ["a", "bb", None], "l": [[1], [2, 3], []]})


def equal(one: Any, other: Any) -> bool:
    """Have two loaded things the same types, values and sharing?"""
    if type(one) is not type(other):
        return False
    if type(one).__module__.startswith("pyarrow"):
        return bool(one.equals(other))
    return pickle.dumps(one) == pickle.dumps(other)


def load(path: Path, **settings: Any) -> Any:
    return pagemerge.load(path, allow_pickle=path.suffix in (".pages", ".pickle"), **settings)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_dumped_is_loaded(name: str, tmp_path: Path) -> None:
    wanted = EXAMPLES[name]()
    pagemerge.dump(wanted, tmp_path / name)
    found = load(tmp_path / name)
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
    assert equal(found, pickle.loads(pickle.dumps(wanted))) or name == "f.pages"
    if name == "f.pages":
        found["view"][0, 0] = -1
        assert found["a"][1, 0] == -1 and found["n"] == wanted["n"]
    # Neither the name nor the folder decides.
    other = (tmp_path / name).rename(tmp_path / "other")
    assert type(pagemerge.load(other, allow_pickle=True)) is type(wanted)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(ARRAY),
        ARRAY[::2, 1:],
        np.array(3.5),
        np.empty((0, 4)),
        np.zeros(3, [("é", "<i4"), ("b", "S3", 2)]),
        np.arange(9).astype("M8[s]"),
        np.arange(9, dtype=">i4"),
        np.array(["a\0b\0", "c"]),
    ],
    ids=str,
)
def test_arrays_of_every_kind(array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    for write in (pagemerge.dump, lambda it, path: np.save(path, it)):
        write(array, tmp_path / "x.npy")
        found = pagemerge.load(tmp_path / "x.npy")
        assert found.dtype == array.dtype and found.shape == array.shape and found.flags.writeable
        assert found.tobytes() == array.tobytes()
        assert found.flags.f_contiguous == np.load(tmp_path / "x.npy").flags.f_contiguous
    pagemerge.dump({"x": array}, tmp_path / "x.npz")
    assert pagemerge.load(tmp_path / "x.npz")["x"].tobytes() == array.tobytes()


def test_files_that_others_write_and_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=ARRAY)
    assert (pagemerge.load(tmp_path / "x.npz")["a"] == ARRAY).all()
    pagemerge.dump({"file": ARRAY}, tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as loaded:
        assert (loaded["file"] == ARRAY).all()
    pagemerge.dump([ARRAY], tmp_path / "z.pkl")
    assert (pickle.loads((tmp_path / "z.pkl").read_bytes())[0] == ARRAY).all()
    theirs = library("safetensors.numpy")
    theirs.save_file({"a": ARRAY, "n": np.arange(3)}, tmp_path / "w", metadata={"format": "pt"})
    assert (pagemerge.load(tmp_path / "w")["a"] == ARRAY).all()
    wanted = {"odd": np.arange(3, dtype="u1"), "a": ARRAY, "half": np.ones((2, 1), "f2")}
    pagemerge.dump(wanted, tmp_path / "v.safetensors")
    found = theirs.load_file(tmp_path / "v.safetensors")
    assert all((found[name] == wanted[name]).all() for name in wanted) and len(found) == 3
    feather = library("pyarrow.feather")
    feather.write_feather(table(), tmp_path / "u")  # compressed
    assert pagemerge.load(tmp_path / "u").equals(table())
    pagemerge.dump(table(), tmp_path / "t.feather")
    assert feather.read_table(tmp_path / "t.feather").equals(table())


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "g.pickle"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # numpy's, about headers of Python 2
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    """Each truncation is refused. After a changed bit the file is refused, or only data differ."""
    path, damaged = tmp_path / name, tmp_path / f"damaged{Path(name).suffix}"
    pagemerge.dump(EXAMPLES[name](), path)
    raw, sound = path.read_bytes(), load(path)
    for length in range(0, len(raw), 1 if len(raw) < 500 else 3):
        damaged.write_bytes(raw[:length])
        with pytest.raises(UsageError) as caught:
            load(damaged)
        assert caught.value.path == str(damaged)
    refused = 0
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1 << place % 8
        damaged.write_bytes(changed)
        try:
            found = load(damaged)
        except (UsageError, OutOfMemory):
            refused += 1
            continue
        if name in ("b.npz", "f.pages"):  # these have checksums
            assert equal(found, sound), place
    assert refused > len(raw) / 4


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        ({"a": ["F64", [3], 0, 24], "b": ["F64", [3], 0, 24]}, "does not lie"),
        ({"a": ["F64", [2], 0, 16], "b": ["F64", [1], 24, 32]}, "does not lie"),
        ({"a": ["F64", [3], 0, 16]}, "does not lie"),
        ({"a": ["F64", [3], 0, 24]}, "24 bytes, and 32 follow"),
        ({"a": ["F64", [-3], 0, 24]}, "is wrong about"),
        ({"a": ["F64", [True], 0, 8]}, "is wrong about"),
        ({"a": ["F4", [64], 0, 32]}, "cannot be loaded"),
        ({"a": ["U8", [1 << 62, 1 << 62, 0], 0, 0], "b": ["U8", [32], 0, 32]}, "impossible"),
        ({"a": ["U8", [1] * 70 + [32], 0, 32]}, "impossible"),
    ],
    ids=range(9),
)
def test_a_header_of_safetensors_that_lies(
    header: dict[str, list[Any]], cause: str, tmp_path: Path
) -> None:
    rows = (
        f'"{name}":{{"dtype":"{it[0]}","shape":{str(it[1]).lower()},"data_offsets":{it[2:]}}}'
        for name, it in header.items()
    )
    text = ("{" + ",".join(rows) + "}").encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + bytes(32))
    with pytest.raises(UsageError, match=cause):
        pagemerge.load(tmp_path / "x")
    twice = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":1}'
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(twice)) + twice + b"x")
    with pytest.raises(UsageError, match="twice"):
        pagemerge.load(tmp_path / "x")


def npy(shape: str, dtype: str = "'<f8'") -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(64)


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (npy("(1 << 70,)"), "header"),
        (npy("(4611686018427387904, 4611686018427387904)"), "follow"),
        (npy("(-8,)"), "negative"),
        (npy("(0, 99999999999999999999)"), "impossible|header"),
        (npy("(8,)", "'|O'"), "allow_pickle"),
        (npy("(8,)", "__import__('os').getpid()"), "header"),
        (npy("(7,)"), "8 bytes after its array"),
        (b"\x93NUMPY\2\0\xff\xff\xff\x7f" + bytes(99), "header of the array has"),
        (b"\x93NUMPY\4\0" + bytes(99), "versions"),
        (b"FEA1" + bytes(99), "version 1"),
        (b"", "no format"),
        (b"hello", "no format"),
        (b"\x80\4N.", "allow_pickle"),
    ],
    ids=range(13),
)
def test_a_file_that_cannot_be_loaded(raw: bytes, cause: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(UsageError, match=cause) as caught:
        pagemerge.load(tmp_path / "x")
    assert caught.value.path == str(tmp_path / "x")


def test_archives_that_are_no_arrays(tmp_path: Path) -> None:
    def refused(cause: str, *names: str, packed: int = zipfile.ZIP_STORED) -> None:
        with zipfile.ZipFile(tmp_path / "x", "w", packed) as archive:
            for name in names:
                archive.writestr(name, npy("(8,)"))
        with pytest.raises(UsageError, match=cause):
            pagemerge.load(tmp_path / "x")

    refused("torch.load", "model/data.pkl", "model/data/0")
    refused("no array", "a.npy", "README")
    refused("method 14", "a.npy", packed=zipfile.ZIP_LZMA)
    with pytest.warns(UserWarning, match="Duplicate"):
        refused("two arrays", "a.npy", "a.npy")
    refused("allow_pickle", "pagemerge")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["x.pkl", "x.pages", "x.npy", "x.npz"])
def test_nothing_is_unpickled_unasked(name: str, tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "ran")
    if name == "x.npy":
        np.save(tmp_path / name, np.array([bomb, ARRAY], object), allow_pickle=True)
    elif name == "x.npz":
        np.savez(tmp_path / name, a=np.array([bomb], object), allow_pickle=True)
    else:
        pagemerge.dump([bomb], tmp_path / name)
    with pytest.raises(UsageError, match="allow_pickle=True"):
        pagemerge.load(tmp_path / name)
    assert not bomb.path.exists()
    pagemerge.load(tmp_path / name, allow_pickle=True)
    assert bomb.path.exists()


def test_pickles_that_fail(tmp_path: Path) -> None:
    for raw in (b"\x80\5.", b"\x80\5cnowhere\nnothing\n.", b"\x80\5K\1"):
        (tmp_path / "x").write_bytes(raw)
        with pytest.raises(UsageError, match="cannot be unpickled"):
            pagemerge.load(tmp_path / "x", allow_pickle=True)


@pytest.mark.parametrize(
    ("obj", "name", "cause"),
    [
        (ARRAY, "x", "suffix"),
        (ARRAY, "x.csv", "suffix"),
        ([1], "x.npy", "not a list"),
        (np.ma.masked_array([1], [True]), "x.npy", "MaskedArray"),
        (np.array([[]], object), "x.npy", "holds objects"),
        (ARRAY, "x.npz", "not a numpy.ndarray"),
        ({1: ARRAY}, "x.npz", "names as keys"),
        ({"a": "text"}, "x.npz", "not a str"),
        ({"a": ARRAY.astype(">f8")}, "x.safetensors", "cannot hold >f8"),
        ({"a": [1]}, "x.safetensors", "'a' is a list"),
        ({"__metadata__": ARRAY}, "x.safetensors", "rename it"),
        (lambda: 1, "x.pkl", "cannot be pickled"),
        ([ARRAY, lambda: 1], "x.pages", "cannot be copied"),
        (ARRAY, "missing/x.npy", "cannot be written"),
        (ARRAY, "folder.npy", "not a plain file"),
    ],
    ids=range(15),
)
def test_what_a_format_cannot_hold(obj: Any, name: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "x.npz").write_bytes(b"old")
    with pytest.raises(UsageError, match=cause):
        pagemerge.dump(obj, tmp_path / name)
    assert (tmp_path / "x.npz").read_bytes() == b"old"
    assert sorted(it.name for it in tmp_path.iterdir()) == ["folder.npy", "x.npz"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path, link = tmp_path / "x.npy", tmp_path / "link.npy"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    before = path.open("rb")
    pagemerge.dump(ARRAY, link)
    assert link.is_symlink() and (np.load(path) == ARRAY).all() and before.read() == b"old"
    before.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    umask = os.umask(0o27)
    try:
        pagemerge.dump(ARRAY, tmp_path / "new.npy")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new.npy").stat().st_mode) == 0o640


def test_a_disk_without_room_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(PagemergeError, match=r"cannot write .*File too large"):
            pagemerge.dump(np.zeros(10_000), tmp_path / "x.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [it.read_bytes() for it in tmp_path.iterdir()] == [b"old"]


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, cause in (("pipe", "plain file"), (".", "plain file"), ("none", "No such file")):
        with pytest.raises(UsageError, match=cause):
            pagemerge.load(tmp_path / name)
    with pytest.raises(UsageError, match="null byte"):
        pagemerge.load("a\0b")
    with pytest.raises(UsageError, match="tensors"):
        pagemerge.load(tmp_path / "x", tensors="jax")


def test_an_error_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    class Late:
        def __reduce__(self) -> Any:
            raise RuntimeError("too late")

    path = tmp_path / "x.pages"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match="too late"):
        pagemerge.dump([ARRAY, Late()], path)
    with pytest.raises(RuntimeError, match="too late"):
        pagemerge.dump([ARRAY, Late()], tmp_path / "x.pkl")
    assert [it.name for it in tmp_path.iterdir()] == ["x.pages"] and path.read_bytes() == b"old"


def test_a_missing_package_is_named() -> None:
    with pytest.raises(Unsupported, match="pip install nowhere"):
        needed("nowhere.at.all", "this")
