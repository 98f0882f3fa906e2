"""``dump``: chooses the format by the suffix of the path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pagemerge.data import arrow, npy, pickles, safetensors
from pagemerge.data.files import replaced
from pagemerge.errors import UsageError

WRITERS: dict[str, Callable[[object, IO[bytes]], None]] = {
    ".npy": npy.write_npy,
    ".npz": npy.write_npz,
    ".safetensors": safetensors.write_safetensors,
    ".arrow": arrow.write_arrow,
    ".feather": arrow.write_arrow,
    ".parquet": arrow.write_parquet,
    ".pkl": pickles.write_pickle,
    ".pickle": pickles.write_pickle,
    ".pages": pickles.write_pages,
}


def dumped(obj: object, path: str | os.PathLike[str]) -> None:
    """See ``pagemerge.dump``."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise UsageError(
            f"{os.fspath(path)!r} does not end in a suffix that names a format: give one of "
            + ", ".join(WRITERS)
        )
    with replaced(path) as file:
        WRITERS[suffix](obj, file)
