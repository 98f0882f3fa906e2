"""Takes an object apart: a pickle of what is Python's, and beside it the parts with large buffers.

The pickle refers to a part, and to an object that is kept as it is, by a persistent id: a number
(Python's documentation of pickle, "Persistence of External Objects"). An object that pickles its
bytes into the stream would lose the merging unseen, so that is noted in ``left``.
"""

from __future__ import annotations

import copyreg
import enum
import io
import pickle
import sys
import types
import weakref
from array import array as PythonArray
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pagemerge._core import LARGE_ARRAY, Memory
from pagemerge.data import reducing, tensors
from pagemerge.data.parts import Part, part_of
from pagemerge.data.words import reason, type_name
from pagemerge.errors import UsageError
from pagemerge.model import PAGE_SIZE

PICKLED = (type(None), bool, int, float, list, tuple, dict, set, frozenset)
"""Pickled by C code, numbers too: it is faster than we can say that they are kept."""
KEPT = (
    *(type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.CodeType),
    *(property, weakref.ref, enum.Enum, np.dtype, np.ufunc),
)
"""Kept as they are, as ``copy.deepcopy`` keeps them; ``np.memmap``: the page cache shares it."""
HOLDERS = (bytes, bytearray, PythonArray)
"""Types of Python that hold bytes in memory that only Python can allocate."""


@dataclass(frozen=True, slots=True)
class Left:
    """Bytes that cannot be put into mergeable memory, and the reason."""

    what: str
    nbytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Keep:
    """An object that is kept although its type is not."""

    obj: object


class Collector(pickle.Pickler):
    """Pickles one object.

    With ``keep``, what cannot change stays the same object, and with ``lenient`` also what cannot
    be copied. Without ``keep``, all of that is pickled, for a file.
    """

    def __init__(self, stream: io.BytesIO, *, keep: bool, lenient: bool = False) -> None:
        super().__init__(stream, protocol=5, buffer_callback=self._out_of_band)
        self.parts: list[Part] = []
        self.kept: list[object] = []
        self.buffers: list[int] = []  # the parts that the pickle takes in order, without a number
        self.left: list[Left] = []
        self.holder: dict[int, str] = {}  # id of an array -> type of the object that holds it
        self._keep, self._lenient = keep, lenient
        self._numbers: dict[object, int] = {}
        self._treatments: dict[type, Callable[[Any], int | None] | None] = dict.fromkeys(PICKLED)

    def persistent_id(self, obj: Any) -> int | None:
        """The number of a part (even) or of a kept object (odd); None for what is pickled."""
        kind = type(obj)
        try:
            treat = self._treatments[kind]
        except KeyError:
            treat = self._treatments[kind] = self._treatment(kind)
        return None if treat is None else treat(obj)

    def reducer_override(self, obj: Any) -> Any:
        """Reduce an object as pickle would, but without bytes in the stream where we can."""
        if isinstance(obj, (type, types.FunctionType, types.BuiltinFunctionType, np.generic)):
            return NotImplemented
        name = type_name(type(obj))
        try:
            reduced = reducing.reduced(obj)
            if reduced is None:
                reduced = tensors.reduced(obj)
            if reduced is None:
                table: dict[type, Any] = copyreg.dispatch_table
                by_table = table.get(type(obj))
                reduced = by_table(obj) if by_table else obj.__reduce_ex__(5)
        except (UsageError, MemoryError, RecursionError):
            raise
        except Exception as error:
            if self._lenient:
                return reducing.as_it_is, (Keep(obj),)
            raise UsageError(
                f"an object of type {name} cannot be copied ({reason(error)}): give its arrays and "
                "tables one by one" + (", or strict=False to leave it as it is" * self._keep)
            ) from error
        self._inspect(obj, reduced, name)
        return reduced

    def _treatment(self, kind: type) -> Callable[[Any], int | None] | None:
        """What is done with all objects of a type; None: pickle knows."""
        if kind is Keep:
            return lambda keep: self._number_kept(keep.obj)
        if kind is Memory:
            return self._memory
        if kind is np.ndarray:
            return self._array
        if issubclass(kind, HOLDERS):
            return self._kept_large if self._keep and kind is bytes else self._in_band
        if tensors.is_storage(kind):
            return self._storage
        if self._keep and (kind in (str, range) or issubclass(kind, (*KEPT, np.memmap))):
            return self._number_kept
        return None

    def _array(self, array: np.ndarray[Any, Any]) -> int | None:
        if array.dtype.hasobject:
            if array.dtype.kind == "T":
                self._leave("an array of StringDType", array.nbytes, "NumPy keeps its texts apart")
            return None
        return self._numbered(array, lambda: part_of(array))

    def _memory(self, memory: Memory) -> int:
        return self._numbered(memory, lambda: Part("memory", memory, memory.address, len(memory)))

    def _storage(self, storage: Any) -> int:
        part = tensors.part_of_storage(storage)
        # Several Python objects may stand for one storage.
        return self._numbered(storage, lambda: part, ("storage", part.address, part.nbytes))

    def _numbered(self, owner: object, part: Callable[[], Part], key: object = None) -> int:
        key = id(owner) if key is None else key
        if key not in self._numbers:
            self._numbers[key] = 2 * len(self.parts)
            self.parts.append(part())
        return self._numbers[key]

    def _number_kept(self, obj: object) -> int:
        self.kept.append(obj)
        return 2 * len(self.kept) - 1

    def _kept_large(self, obj: bytes) -> int:
        self._in_band(obj)
        return self._number_kept(obj)

    def _in_band(self, obj: Any) -> None:
        nbytes = len(obj) * getattr(obj, "itemsize", 1)
        kind = type_name(type(obj))
        self._leave(kind, nbytes, "Python holds its bytes; np.frombuffer makes an array of them")

    def _out_of_band(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer of an object that pickles by protocol 5 (pyarrow and others)."""
        view = buffer.raw()
        array = np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)
        address = array.__array_interface__["data"][0]
        self.buffers.append(len(self.parts))
        self.parts.append(Part("buffer", (buffer, view, array), address, view.nbytes))
        return False

    def _inspect(self, obj: object, reduced: Any, name: str) -> None:
        """Note which arrays an object holds, and whether its reduction has made bytes."""
        if not isinstance(reduced, tuple):
            return
        own = {id(value) for value in getattr(obj, "__dict__", {}).values()}  # made by its owner
        for value in _values(reduced[1:3]):
            if isinstance(value, np.ndarray):
                self.holder.setdefault(id(value), name)
            elif isinstance(value, (*HOLDERS, str)) and id(value) not in own:
                self._leave(name, len(value), "its type pickles its data as one text of bytes")

    def _leave(self, what: str, nbytes: int, why: str) -> None:
        if nbytes >= PAGE_SIZE:  # less is never put into mergeable memory
            self.left.append(Left(what, nbytes, why))


def refuse_left(left: list[Left]) -> None:
    """Raise ``UsageError`` if the bytes left of some type are many (256 KiB)."""
    sums: dict[tuple[str, str], int] = {}
    for it in left:
        sums[it.what, it.why] = sums.get((it.what, it.why), 0) + it.nbytes
    for (what, why), nbytes in sums.items():
        if nbytes >= LARGE_ARRAY:
            raise UsageError(
                f"{nbytes} bytes of {what} cannot be put into mergeable memory: {why}. "
                "Give strict=False to share the rest and leave these ordinary memory"
            )


def collected(obj: object, *, keep: bool, lenient: bool = False) -> tuple[io.BytesIO, Collector]:
    """Take ``obj`` apart: the pickle, and what lies beside it. Raises ``UsageError``."""
    stream = io.BytesIO()
    collector = Collector(stream, keep=keep, lenient=lenient)
    try:
        collector.dump(obj)
    except RecursionError:
        raise UsageError(
            f"the object is nested too deeply for pickle (a limit of {sys.getrecursionlimit()}): "
            "raise it with sys.setrecursionlimit, or give its parts one by one"
        ) from None
    except (pickle.PicklingError, TypeError, AttributeError, BufferError) as error:
        raise UsageError(f"the object cannot be copied: {reason(error)}") from error
    stream.seek(0)
    return stream, collector


def _values(things: tuple[Any, ...]) -> Iterator[Any]:
    """The values of arguments and of a state, to the depth at which types keep their data."""
    for thing in things:
        yield thing
        inner = thing.values() if isinstance(thing, dict) else thing
        if isinstance(thing, (dict, tuple, list)) and len(thing) < 1000:
            for value in inner:
                yield value
                if isinstance(value, dict) and len(value) < 1000:
                    yield from value.values()
                elif isinstance(value, tuple):
                    yield from value
