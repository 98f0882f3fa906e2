"""The Python API: arrays and buffers whose equal pages are kept once.

Everything here starts this process's agent with the first use, and a hub if none runs. The agent
reads three variables then: ``PAGEMERGE_SOCKET`` (where the hub listens), ``PAGEMERGE_BARRIER``
(auto, move, write-protect, park) and ``PAGEMERGE_DOMAIN`` (a name that narrows the trust domain:
pages are shared only with processes of this user that say the same).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

from pagemerge import _core
from pagemerge._core import Memory
from pagemerge.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pagemerge.model import Status

    Array = TypeVar("Array", bound="npt.NDArray[Any] | Memory")

_started_in = 0
"""Process whose agent has been started: a fork child gets its own."""


def buffer(nbytes: int) -> Memory:
    """Mergeable memory of ``nbytes`` bytes, zeroed: a writable buffer, page-aligned.

    Raises ``UsageError`` for a size that cannot be, ``PagemergeError`` when memory runs out.
    """
    _start()
    return Memory(nbytes)


def empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike = float) -> npt.NDArray[Any]:
    """A numpy array of ``shape`` and ``dtype`` in mergeable memory; its contents are zero.

    Raises ``UsageError`` for a dtype that holds references, or a size that cannot be.
    """
    import numpy as np

    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise UsageError(f"an array of {kind} holds references: its pages are never equal")
    nbytes = prod(shape) * kind.itemsize
    if any(side < 0 for side in shape):
        raise UsageError(f"an array of shape {shape} cannot be")
    if nbytes == 0:
        return np.empty(shape, kind)
    made: npt.NDArray[Any] = np.frombuffer(memoryview(buffer(nbytes)), np.uint8).view(kind)
    return made.reshape(shape)


def copy(array: npt.ArrayLike) -> npt.NDArray[Any]:
    """A copy of ``array`` (C order) in mergeable memory, merged before this returns.

    What the store already holds is never allocated. Nobody may write ``array`` meanwhile.
    Raises ``HubError`` if no hub can be reached or it may not read this process.
    """
    import numpy as np

    source = np.ascontiguousarray(array)
    if source.dtype.hasobject:
        raise UsageError(f"an array of {source.dtype} holds references: its pages are never equal")
    if source.nbytes == 0:
        return source.copy()
    memory = buffer(source.nbytes)
    _core.copy_into(_bytes(source), memory)
    made: npt.NDArray[Any] = np.frombuffer(memoryview(memory), np.uint8).view(source.dtype)
    return made.reshape(np.shape(array))


def intern(array: Array) -> Array:
    """Merge ``array`` (or a ``buffer``) in place before this returns; returns it.

    Its memory must be mergeable: from ``empty``, ``buffer`` or ``mergeable_arrays``. The caller
    promises that nobody writes it during the call. Whole pages only: less than a page is left as
    it is. Raises ``UsageError`` for other memory, however small, ``HubError`` if no hub can be
    reached; contents are right in every case.
    """
    _start()
    _core.intern_pages(_bytes(array))
    return array


def unmerge(array: Array) -> Array:
    """Give ``array`` pages of its own again and keep them from being merged; returns it.

    Safe beside writers. ``intern`` makes it mergeable again. Raises ``UsageError`` if its memory
    is not mergeable.
    """
    data = _bytes(array)
    if len(data):
        address = data.address if isinstance(data, Memory) else data.ctypes.data
        _core.unmerge_range(address, len(data))
    return array


@contextlib.contextmanager
def mergeable_arrays() -> Iterator[None]:
    """While this context lasts, numpy puts new large arrays (256 KiB and more) in mergeable memory.

    For this thread and context (NEP 49, contextvars). The arrays may outlive it.
    """
    _start()
    before = _core.set_numpy_handler()
    try:
        yield
    finally:
        _core.set_numpy_handler(before)


def stats() -> Status:
    """The counters of this user's hub, as ``pagemerge status`` shows them.

    Raises ``HubError`` if no hub runs.
    """
    from pagemerge.merge.client import fetch_status

    return fetch_status()


def _start() -> None:
    """Start this process's agent, once. Raises ``UsageError`` if PAGEMERGE_DOMAIN is no name."""
    global _started_in
    if _started_in == os.getpid():
        return
    from pagemerge.merge.client import hub_command, socket_path

    path = str(socket_path().absolute())
    domain = os.environ.get("PAGEMERGE_DOMAIN", "")
    if domain:
        from pagemerge.decide.trust import checked_name

        checked_name(domain)
    barrier = os.environ.get("PAGEMERGE_BARRIER", "auto")
    _core.start_agent(path, hub_command(path), barrier, domain)
    if "PAGEMERGE_NOTE" in os.environ:
        from pagemerge.merge.note import take_away

        take_away()
    _started_in = os.getpid()


def _bytes(array: npt.NDArray[Any] | Memory) -> npt.NDArray[np.uint8] | Memory:
    """The bytes of an array, without a copy. Raises ``UsageError`` if they are not contiguous."""
    if isinstance(array, Memory):
        return array
    import numpy as np

    if not isinstance(array, np.ndarray):
        raise UsageError(
            f"a numpy array or a pagemerge buffer is needed, not {type(array).__name__}"
        )
    if array.flags.c_contiguous:
        return array.reshape(-1).view(np.uint8)
    if array.flags.f_contiguous:
        return array.T.reshape(-1).view(np.uint8)
    raise UsageError("the array's elements are not contiguous in memory: intern what it views")
