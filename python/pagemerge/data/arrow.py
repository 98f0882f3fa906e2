"""Tables of pyarrow: Arrow IPC files (Feather version 2) and Parquet."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pagemerge.data.collecting import collected
from pagemerge.data.files import Source, needed, read_full
from pagemerge.data.room import Room
from pagemerge.data.sharing import shared
from pagemerge.data.words import reason, type_name
from pagemerge.errors import PagemergeError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

ARROW, PARQUET, FEATHER_1 = b"ARROW1\0\0", b"PAR1", b"FEA1"


def read_arrow(source: Source, room: Room) -> Any:
    """Read an Arrow IPC file: its buffers are the file in mergeable memory.

    What is compressed is decompressed to Arrow's own memory, so all is copied from there.
    """
    ipc = needed("pyarrow.ipc", "an Arrow file")
    arrow = needed("pyarrow", "an Arrow file")
    whole = room.fill(source.size, lambda part: read_full(source.file, part, source, "the file"))
    room.close()
    try:
        table = ipc.open_file(arrow.py_buffer(whole)).read_all()
        table.validate(full=True)
    except (PagemergeError, MemoryError):
        raise
    except Exception as error:  # pyarrow raises many kinds for what it cannot parse
        raise source.damaged(f"it cannot be read as an Arrow file ({reason(error)})") from None
    return table if _lies_in(table, whole) else shared(table, strict=True)


def read_parquet(source: Source) -> Any:
    """Read a Parquet file, one row group at a time."""
    arrow = needed("pyarrow", "a Parquet file")
    parquet = needed("pyarrow.parquet", "a Parquet file")
    try:
        file = parquet.ParquetFile(source.file)
        groups = []
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            table.validate(full=True)
            groups.append(shared(table, strict=True))
        if not groups:
            return file.schema_arrow.empty_table()
        return arrow.concat_tables(groups)
    except (PagemergeError, MemoryError):
        raise
    except Exception as error:  # as above
        raise source.damaged(f"it cannot be read as a Parquet file ({reason(error)})") from None


def write_arrow(obj: object, file: IO[bytes]) -> None:
    """Write a table as an Arrow IPC file, uncompressed, so that loading copies nothing."""
    table = _table(obj, ".arrow")
    with needed("pyarrow.ipc", "an Arrow file").new_file(file, table.schema) as writer:
        writer.write_table(table)


def write_parquet(obj: object, file: IO[bytes]) -> None:
    """Write a table as a Parquet file."""
    needed("pyarrow.parquet", "a Parquet file").write_table(_table(obj, ".parquet"), file)


def _table(obj: object, suffix: str) -> Any:
    if not isinstance(obj, needed("pyarrow", f"a {suffix} file").Table):
        raise UsageError(
            f"a {suffix} file holds a pyarrow.Table, not a {type_name(type(obj))}: give "
            "pyarrow.Table.from_pandas(it) for a DataFrame, or a path that ends in .pages"
        )
    return obj


def _lies_in(table: Any, whole: Bytes) -> bool:
    """Do all buffers of a table lie in these bytes?"""
    start, end = whole.ctypes.data, whole.ctypes.data + len(whole)
    _, collector = collected(table, keep=True)
    return all(
        start <= part.address and part.address + part.nbytes <= end
        for part in collector.parts
        if part.nbytes
    )
