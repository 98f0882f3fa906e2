"""NumPy's files: .npy (an array) and .npz (a zip of arrays). Source: numpy.lib.format."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from math import prod
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from pagemerge.data.archive import finish, opened_member
from pagemerge.data.files import Source, read_full
from pagemerge.data.parts import Form
from pagemerge.data.room import Room
from pagemerge.data.sharing import shared
from pagemerge.data.words import reason, type_name
from pagemerge.errors import PagemergeError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

MAGIC = b"\x93NUMPY"
MOST_HEADER = 1 << 20
"""Bytes of a header that are read; numpy itself refuses to evaluate more than 10,000 characters."""


def read_npy(source: Source, room: Room, allow_pickle: bool) -> Any:
    """Read a .npy file. Arrays of objects are pickles, which ``allow_pickle`` must allow."""
    made = _read(source.file, source.size, source, room, allow_pickle, "the array")
    extra = source.size - source.file.tell()
    if extra and not made.dtype.hasobject:  # a pickle has been read ahead
        raise source.refused(
            f"has {extra} bytes after its array: np.load reads files of several arrays"
        )
    return made


def read_npz(
    source: Source, archive: zipfile.ZipFile, room: Room, allow_pickle: bool
) -> dict[str, Any]:
    """Read the arrays of a .npz file, by name; zipfile compares their CRC-32."""
    found: dict[str, Any] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in found:
            raise source.damaged(f"it has two arrays of the name {name!r}")
        with opened_member(archive, member, source) as file:
            found[name] = _read(
                file, member.file_size, source, room, allow_pickle, f"array {name!r}"
            )
            finish(file, member.filename, source)
    return found


def write_npy(obj: object, file: IO[bytes]) -> None:
    """Write an array as .npy."""
    npy.write_array(file, _plain(obj), allow_pickle=False)


def write_npz(obj: object, file: IO[bytes]) -> None:
    """Write a dict of arrays as .npz, uncompressed."""
    arrays = {f"{name}.npy": _plain(value) for name, value in named(obj, ".npz").items()}
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(name, "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)


def named(obj: object, suffix: str) -> Mapping[str, Any]:
    """Check that ``obj`` is a dict with texts as keys. Raises ``UsageError``."""
    if not isinstance(obj, Mapping):
        raise UsageError(
            f"a {suffix} file holds a dict of arrays, not a {type_name(type(obj))}: give "
            '{"name": array}, or a path that ends in .pages for any object'
        )
    for name in obj:
        if not isinstance(name, str) or not name or "\0" in name:
            raise UsageError(f"a {suffix} file needs names as keys, not {name!r}: rename it")
    return obj


def _plain(obj: object) -> npt.NDArray[Any]:
    """Check that .npy can hold all of an object. Raises ``UsageError``."""
    if type(obj) not in (np.ndarray, np.memmap) or not isinstance(obj, np.ndarray):
        raise UsageError(
            f"numpy's files hold plain arrays, not a {type_name(type(obj))}: give np.asarray(it), "
            "or a path that ends in .pages for any object"
        )
    if obj.dtype.hasobject:
        raise UsageError(f"an array of {obj.dtype} holds objects: give a path that ends in .pages")
    return obj


def _read(file: Any, size: int, source: Source, room: Room, allow_pickle: bool, what: str) -> Any:
    """Read one array from the start of ``file``, of ``size`` bytes."""
    raw, (shape, fortran, dtype) = _header(file, source, what)
    if dtype.hasobject:
        if not allow_pickle:
            raise source.refused(
                f"holds objects of Python ({what}), and loading them can run any code: if you "
                "trust the file, give allow_pickle=True"
            )
        return _objects(_After(raw, file), source, what)
    if any(side < 0 for side in shape):
        raise source.damaged(f"{what} has a negative side")
    nbytes = prod(shape) * dtype.itemsize
    if nbytes > size - len(raw):
        raise source.damaged(f"{what} needs {nbytes} bytes, and {size - len(raw)} follow")
    data = room.fill(nbytes, lambda part: read_full(file, part, source, what))
    sides = shape[::-1] if fortran else shape
    try:
        made = Form(dtype, sides, _c_strides(sides, dtype.itemsize), 0, True).on(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise source.damaged(f"{what} has an impossible shape ({reason(error)})") from None
    return made.T if fortran else made


def _header(file: Any, source: Source, what: str) -> tuple[bytes, tuple[Any, bool, Any]]:
    """Read the header of an array: its bytes, and shape, Fortran's order, dtype."""
    start = np.zeros(8, np.uint8)
    read_full(file, start, source, f"the header of {what}")
    raw = start.tobytes()
    if raw[:6] != MAGIC or raw[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise source.damaged(f"{what} does not begin as an array of numpy (versions 1 to 3)")
    width = 2 if raw[6] == 1 else 4
    length = np.zeros(width, np.uint8)
    read_full(file, length, source, f"the header of {what}")
    nbytes = int.from_bytes(length.tobytes(), "little")
    if nbytes > MOST_HEADER:
        raise source.damaged(f"the header of {what} has {nbytes} bytes")
    text = np.zeros(nbytes, np.uint8)
    read_full(file, text, source, f"the header of {what}")
    raw += length.tobytes() + text.tobytes()
    parse = npy.read_array_header_1_0 if raw[6] == 1 else npy.read_array_header_2_0
    try:
        body = text.tobytes()
        if raw[6] == 3:
            # Version 3 is UTF-8, and numpy reads only the older ones in public. Both are literals
            # of Python, in which an escape means the same.
            body = body.decode().encode("ascii", "backslashreplace")
        stream = io.BytesIO(len(body).to_bytes(width, "little") + body)
        return raw, parse(stream)
    except Exception as error:  # numpy raises many kinds for what it cannot parse
        raise source.damaged(f"the header of {what} cannot be read ({reason(error)})") from None


def _objects(file: io.RawIOBase, source: Source, what: str) -> Any:
    """Unpickle an array of objects, and share what is in it."""
    try:
        array = npy.read_array(io.BufferedReader(file), allow_pickle=True)
    except (PagemergeError, MemoryError):
        raise
    except Exception as error:  # a pickle calls whatever it names
        raise source.damaged(f"{what} cannot be unpickled ({reason(error)})") from error
    return shared(array, strict=False)


def _c_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) * itemsize for axis in range(len(shape)))


class _After(io.RawIOBase):
    """A file that begins again with bytes that have been read from it already."""

    def __init__(self, start: bytes, file: Any) -> None:
        self._start, self._file = start, file

    def readinto(self, part: Any) -> int:
        if not self._start:
            return int(self._file.readinto(part) or 0)
        count = min(len(part), len(self._start))
        part[:count], self._start = self._start[:count], self._start[count:]
        return count

    def readable(self) -> bool:
        return True
