"""The Python API: arrays and buffers whose equal pages are kept once.

The first use of anything here starts this process's agent, and a hub if none runs. The agent then
reads three variables: ``PAGEMERGE_SOCKET`` (where the hub listens), ``PAGEMERGE_BARRIER`` (auto,
move, write-protect, park) and ``PAGEMERGE_DOMAIN`` (a name that narrows the trust domain: pages are
shared only with processes of this user that give the same name).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from math import prod
from operator import index

from pagemerge import _core
from pagemerge._core import Memory
from pagemerge.errors import HubError, UsageError

TYPE_CHECKING = False  # not from typing, for `pagemerge --help`: see pagemerge.cli
if TYPE_CHECKING:
    from typing import Any, SupportsIndex, TypeVar, overload

    import numpy as np
    import numpy.typing as npt

    from pagemerge.hub.model import Status

    Array = TypeVar("Array", bound="np.ndarray[Any, Any] | Memory")
    Shape = TypeVar("Shape", bound=tuple[Any, ...])
    DType = TypeVar("DType", bound=np.dtype[Any])
    Scalar = TypeVar("Scalar", bound=np.generic)
    AnyShape = SupportsIndex | Sequence[SupportsIndex]

HUB_START = 10.0
"""Seconds that ``stats`` waits for the hub that this process is starting."""

_started_in = 0
"""Pid of the process whose agent has been started: a fork child starts its own."""


def buffer(nbytes: int) -> Memory:
    """Allocate ``nbytes`` bytes of mergeable memory: a writable, page-aligned buffer of zeros.

    Raises ``UsageError`` for a size below 1 or above 2**63 - 1, and ``OutOfMemory`` (a
    ``MemoryError``) if there is not enough memory.
    """
    size = index(nbytes)
    if not 0 < size < 1 << 63:
        raise UsageError(f"cannot make mergeable memory of {size} bytes")
    _start()
    return Memory(size)


if TYPE_CHECKING:

    @overload
    def empty(shape: AnyShape) -> npt.NDArray[np.float64]: ...
    @overload
    def empty(shape: AnyShape, dtype: type[Scalar] | np.dtype[Scalar]) -> npt.NDArray[Scalar]: ...
    @overload
    def empty(shape: AnyShape, dtype: npt.DTypeLike) -> npt.NDArray[Any]: ...


def empty(shape: AnyShape, dtype: npt.DTypeLike = float) -> npt.NDArray[Any]:
    """Make a numpy array of ``shape`` and ``dtype`` in mergeable memory; its contents are zero.

    Raises ``UsageError`` for a dtype that holds references, or for an impossible size, and
    ``OutOfMemory`` (a ``MemoryError``) if there is not enough memory.
    """
    import numpy as np

    sides = tuple(map(index, shape)) if isinstance(shape, Sequence) else (index(shape),)
    if any(side < 0 for side in sides):
        raise UsageError(f"an array of shape {sides} cannot be made: no side may be negative")
    # NumPy decides what a dtype without a size, or with a shape of its own, means.
    pattern = np.empty(0, dtype)
    _refuse_references(pattern.dtype)
    sides += pattern.shape[1:]
    nbytes = prod(sides) * pattern.itemsize
    if nbytes == 0:
        return np.empty(sides, pattern.dtype)
    return _on(buffer(nbytes), pattern.dtype, sides)


if TYPE_CHECKING:

    @overload
    def copy(array: np.ndarray[Shape, DType]) -> np.ndarray[Shape, DType]: ...
    @overload
    def copy(array: bytes | bytearray | Memory) -> npt.NDArray[np.uint8]: ...
    @overload
    def copy(array: npt.ArrayLike) -> npt.NDArray[Any]: ...


def copy(array: npt.ArrayLike | Memory) -> npt.NDArray[Any]:
    """Copy ``array`` into mergeable memory, and merge the copy before this returns.

    The copy keeps shape and dtype. It keeps the order in memory if that is C's or Fortran's, and
    has C's order otherwise. The bytes of ``bytes``, ``bytearray`` and ``buffer`` become uint8, a
    ``memmap`` becomes a plain array. Pages that the store already holds are never allocated. No
    thread may write ``array`` during the call.

    Raises ``UsageError`` for what a plain array cannot hold (references, a mask, the labels of a
    DataFrame, ...), ``OutOfMemory`` (a ``MemoryError``) if there is not enough memory, and
    ``HubError`` if no hub can be reached or the hub may not read this process.
    """
    import numpy as np

    source = _plain_array(array)
    if source.nbytes == 0:
        return source.copy("K")
    fortran = source.flags.f_contiguous and not source.flags.c_contiguous
    if fortran:
        source = source.T
    shape, source = source.shape, np.ascontiguousarray(source)
    memory = buffer(source.nbytes)
    _core.copy_into(_bytes(source), memory)
    made = _on(memory, source.dtype, shape)
    return made.T if fortran else made


def intern(array: Array) -> Array:
    """Merge ``array`` (or a ``buffer``) in place before this returns; returns it.

    Its memory must be mergeable: from ``empty``, ``buffer`` or ``mergeable_arrays``. The caller
    promises that no thread writes it during the call. Only whole pages are merged: less than a page
    stays as it is. Raises ``UsageError`` for other memory of any size and for an array of
    references, and ``HubError`` if no hub can be reached. The contents are right in every case.
    """
    _start()
    _core.intern_pages(_bytes(array))
    return array


def unmerge(array: Array) -> Array:
    """Give ``array`` pages of its own again and keep them from being merged; returns it.

    Other threads may write the array during the call. ``intern`` makes it mergeable again. Raises
    ``UsageError`` if its memory is not mergeable.
    """
    data = _bytes(array)
    if len(data):
        address = data.address if isinstance(data, Memory) else data.ctypes.data
        _core.unmerge_range(address, len(data))
    return array


@contextlib.contextmanager
def mergeable_arrays() -> Iterator[None]:
    """Have numpy put new large arrays (256 KiB and more) in mergeable memory inside the context.

    This holds for this thread and context (NEP 49, contextvars). The arrays may outlive it.
    """
    _start()
    before = _core.set_numpy_handler()
    try:
        yield
    finally:
        _core.set_numpy_handler(before)


def stats() -> Status:
    """Return the counters of this user's hub, as ``pagemerge status`` shows them.

    Waits for the hub that this process has just started. Raises ``HubError`` if no hub runs.
    """
    from pagemerge.hub.reach import fetch_status

    deadline = time.monotonic() + HUB_START
    while True:
        try:
            return fetch_status()
        except HubError:
            if not _hub_is_starting() or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _hub_is_starting() -> bool:
    """Does our agent need a hub that it has not reached yet, and may it start one?"""
    from pagemerge.hub.reach import hub_command

    if _started_in != os.getpid() or not hub_command(""):
        return False
    summary = _core.agent_summary()
    return bool(summary["regions"]) and summary["hub_pid"] is None


def _start() -> None:
    """Start this process's agent, once. Raises ``UsageError`` if PAGEMERGE_DOMAIN is not a name."""
    global _started_in
    if _started_in == os.getpid():
        return
    from pagemerge.hub.reach import barrier, hub_command, socket_path

    path = str(socket_path().absolute())
    domain = os.environ.get("PAGEMERGE_DOMAIN", "")
    if domain:
        from pagemerge.hub.decide.trust import checked_name

        checked_name(domain)
    _core.start_agent(path, hub_command(path), barrier(), domain)
    if "PAGEMERGE_NOTE" in os.environ:
        from pagemerge.hub.note import take_away

        take_away()
    _started_in = os.getpid()


def _on(memory: Memory, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Make an array on ``memory``; the array keeps the memory alive."""
    import numpy as np

    return np.frombuffer(memoryview(memory), np.uint8).view(dtype).reshape(shape)


def _plain_array(array: object) -> npt.NDArray[Any]:
    """Convert ``array`` to a plain array. Raises ``UsageError`` if that would lose something."""
    import numpy as np

    kind = type(array).__name__
    if isinstance(array, bytes | Memory) and not isinstance(array, np.generic):
        return np.frombuffer(memoryview(array), np.uint8)
    if isinstance(array, np.ndarray):
        if isinstance(array, np.ma.MaskedArray):
            raise UsageError("a copy would lose the mask: copy its .data and its .mask")
        if type(array) not in (np.ndarray, np.memmap):
            raise UsageError(
                f"a copy would be a plain array, not a {kind}: copy np.asarray(it), and make a "
                f"{kind} from the copy"
            )
        source = array.view(np.ndarray)
    elif isinstance(array, np.generic):
        source = np.asarray(array)
    elif any(hasattr(array, name) for name in ("__array__", "__array_interface__", "__dlpack__")):
        raise UsageError(
            f"a copy would be a plain array, not a {kind}, and lose everything but the values: "
            "copy np.asarray(it) if you need only the values"
        )
    else:
        source = np.asarray(array)
        if source.dtype.kind in "SU":
            raise UsageError(
                "NumPy drops zeros at the end of texts: make an array of the dtype that you need, "
                "and copy that array"
            )
    _refuse_references(source.dtype)
    return source


def _refuse_references(dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise UsageError(
            f"an array of {dtype} holds references: its pages are never equal; use a dtype of "
            "numbers, or of texts of one length"
        )


def _bytes(array: np.ndarray[Any, Any] | Memory) -> npt.NDArray[np.uint8] | Memory:
    """View the bytes of an array, without a copy.

    Raises ``UsageError`` if they are not contiguous.
    """
    if isinstance(array, Memory):
        return array
    import numpy as np

    if not isinstance(array, np.ndarray):
        raise UsageError(
            f"a numpy array or a pagemerge buffer is needed, not {type(array).__name__}"
        )
    _refuse_references(array.dtype)
    plain = array.view(np.ndarray)
    if plain.flags.f_contiguous:
        plain = plain.T
    if not plain.flags.c_contiguous:
        raise UsageError(
            "the array's elements are not contiguous in memory: use the array that it is a view of"
        )
    if plain.nbytes == 0:
        return np.empty(0, np.uint8)
    return plain.reshape(-1).view(np.uint8)
