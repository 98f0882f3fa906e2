"""``load``: finds the format of a file by its first bytes."""

from __future__ import annotations

import os
from typing import Any

from pagemerge.data import arrow, npy, pickles, safetensors
from pagemerge.data.archive import opened_archive
from pagemerge.data.files import Source, opened
from pagemerge.data.room import Room
from pagemerge.data.words import reason
from pagemerge.errors import OutOfMemory, PagemergeError, UsageError

KNOWN = ".npy, .npz, .safetensors, Arrow IPC (Feather), Parquet, .pages and pickles (protocol 2 on)"


def loaded(path: str | os.PathLike[str], allow_pickle: bool, tensors: str) -> Any:
    """See ``pagemerge.load``."""
    if tensors not in ("numpy", "torch"):
        raise UsageError(f'tensors is "numpy" or "torch", not {tensors!r}')
    room = Room()
    with opened(path) as source:
        try:
            made = _read(source, room, allow_pickle, tensors)
        except PagemergeError:
            raise
        except MemoryError as error:  # of pyarrow, numpy or Python
            raise OutOfMemory(
                f"{source.path!r} needs more memory than there is, or is damaged "
                f"({reason(error)}): free memory, or make the file again",
                path=source.path,
            ) from None
    room.close()
    return made


def _read(source: Source, room: Room, allow_pickle: bool, tensors: str) -> Any:
    """Read a file of any format."""
    head = source.file.read(16)
    source.file.seek(0)
    if safetensors.looks_like(head, source.size):
        return safetensors.read_safetensors(source, room, tensors)
    if tensors != "numpy":
        raise source.refused('is no file of safetensors: tensors="torch" is for these')
    if head.startswith(npy.MAGIC):
        return npy.read_npy(source, room, allow_pickle)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _read_archive(source, room, allow_pickle)
    if head.startswith(arrow.ARROW):
        return arrow.read_arrow(source, room)
    if head.startswith(arrow.PARQUET):
        return arrow.read_parquet(source)
    if head.startswith(arrow.FEATHER_1):
        raise source.refused(
            "is of Feather version 1: read it with pyarrow.feather.read_table, and write it again"
        )
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        _refuse_pickle(source, allow_pickle)
        return pickles.read_pickle(source)
    raise source.refused(f"is of no format that can be loaded ({KNOWN}): convert it")


def _read_archive(source: Source, room: Room, allow_pickle: bool) -> Any:
    with opened_archive(source) as archive:
        names = archive.namelist()
        if pickles.MARK in names:
            _refuse_pickle(source, allow_pickle)
            return pickles.read_pages(source, archive, room)
        others = [name for name in names if not name.endswith(".npy")]
        if any(name.endswith("/data.pkl") for name in others):
            raise source.refused(
                "is a file of torch.save: load it with torch.load(mmap=True), and give the result "
                "to pagemerge.share"
            )
        if others:
            raise source.refused(f"holds {others[0]!r}, which is no array: take it out of the .npz")
        return npy.read_npz(source, archive, room, allow_pickle)


def _refuse_pickle(source: Source, allow_pickle: bool) -> None:
    if not allow_pickle:
        raise source.refused(
            "is a pickle, and loading one can run any code: if you trust the file, give "
            "allow_pickle=True"
        )
