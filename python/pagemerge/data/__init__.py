"""Whole objects and files in mergeable memory: ``share``, ``load`` and ``dump``.

numpy, pandas, torch, pyarrow and others are imported only where an object or a file needs them.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # not from typing, for `pagemerge --help`: see pagemerge.cli
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")


def share(obj: T, *, strict: bool = True) -> T:
    """Return an equal object of the same type whose large buffers are in mergeable memory, merged.

    Like ``copy.deepcopy``, this makes new containers, objects and arrays. Immutable objects of
    Python (``str``, ``bytes``, numbers), enum members, functions, classes and modules are the same
    objects in the result, and so is an ``np.memmap``, whose file the page cache shares already.
    Objects are copied by their own pickle protocol (PEP 574), without a file. Two names of one
    array, and views of the same memory, stay that; read-only stays read-only. An array that leaves
    gaps in memory, and overlaps no other array of the object, becomes dense.

    Buffers of one page (4096 bytes) and more are merged before this returns: numpy arrays, pandas,
    scipy.sparse, pyarrow, torch tensors on the CPU, and all that keep their data in these. Pages of
    Python's own objects hold reference counts, which are written all the time: they stay ordinary
    memory. No thread may write ``obj`` during the call.

    Raises ``UsageError`` that names the type and the cure, if an object cannot be copied, or if
    256 KiB or more of a type cannot be put into mergeable memory (``bytes``, and types that keep
    their data in memory of their own). With ``strict=False``, such data and such objects stay
    ordinary memory: what can be copied is a copy, what cannot is the same object in the result.
    Raises ``OutOfMemory`` if there is not enough memory, and ``HubError`` if no hub can be reached.
    """
    from pagemerge.data.sharing import shared

    return shared(obj, strict)


def load(
    path: str | os.PathLike[str],
    *,
    allow_pickle: bool = False,
    tensors: str = "numpy",
) -> Any:
    """Load a file into mergeable memory, merged: processes that load it keep one copy.

    The content of the file decides, not its name. ``.npy`` gives an array; ``.npz`` a dict of
    arrays; safetensors a dict of arrays, or of torch tensors with ``tensors="torch"`` (arrays of
    bfloat16 and of 8-bit floats need the package ``ml_dtypes``); Arrow IPC (Feather version 2) and
    Parquet a ``pyarrow.Table``, checked in full; a pickle, or what ``dump`` writes to ``.pages``,
    the object, as ``share`` makes it with ``strict=False``.

    A pickle can run any code as you while it is loaded, so it is loaded only with
    ``allow_pickle=True``: give that only for a file that you trust as much as a program that you
    run. ``.pages``, and arrays of objects in ``.npy`` and ``.npz``, are pickles, too.

    Arrays are writable, in C's or Fortran's order as in the file. Buffers below one page stay
    ordinary memory. The file is read in pieces of 16 MiB, each merged before the next, so a file
    that another process has loaded takes no memory beyond a piece; compressed Arrow IPC and plain
    pickles need a second copy for a moment, Parquet one row group.

    Raises ``UsageError`` if there is no such file, or if the file is damaged, of another format or
    needs ``allow_pickle``; ``AccessDenied`` if it may not be read; ``Unsupported`` if a package is
    missing; ``OutOfMemory``, and ``HubError`` if no hub can be reached.
    """
    from pagemerge.data.loading import loaded

    return loaded(path, allow_pickle, tensors)


def dump(obj: object, path: str | os.PathLike[str]) -> None:
    """Write ``obj`` to a file that ``load`` reads; the suffix of ``path`` decides on the format.

    ``.npy`` (an array), ``.npz`` and ``.safetensors`` (a dict of names and arrays; torch tensors in
    ``.safetensors``), ``.arrow``, ``.feather`` and ``.parquet`` (a ``pyarrow.Table``), ``.pkl`` and
    ``.pickle`` (any object, for ``pickle.load``), ``.pages`` (any object: an uncompressed zip of a
    pickle and its buffers, which ``load`` reads straight into mergeable memory).

    The file is complete or not there at all: it is written under another name in the same folder,
    and renamed once it is on the disk. An existing file keeps its permissions. Raises
    ``UsageError`` if the format cannot hold the object, ``Unsupported`` if a package is missing,
    ``AccessDenied`` if the folder may not be written to, and ``PagemergeError`` if writing failed.
    """
    from pagemerge.data.dumping import dumped

    dumped(obj, path)
