"""Any object: plain pickles, and files of a pickle with its buffers beside it (.pages).

A .pages file is an uncompressed zip: ``pagemerge`` (the version of this layout), ``object.pickle``
(see ``collecting``), ``places.pickle`` (see ``parts.Place``), and ``block/N``, the bytes of block
number N.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pagemerge.data.archive import finish, opened_member
from pagemerge.data.collecting import collected
from pagemerge.data.files import Source, read_full
from pagemerge.data.parts import Block, Form, Place, elements, laid_out, raw
from pagemerge.data.rebuilding import rebuilt
from pagemerge.data.room import PIECE, Room
from pagemerge.data.sharing import shared
from pagemerge.data.words import reason
from pagemerge.errors import PagemergeError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

MARK, VERSION = "pagemerge", b"1"
OBJECT, PLACES, BLOCK = "object.pickle", "places.pickle", "block/"


def read_pickle(source: Source) -> Any:
    """Unpickle a file, and share the object."""
    return shared(_unpickled(source.file, source), strict=False)


def read_pages(source: Source, archive: zipfile.ZipFile, room: Room) -> Any:
    """Read what ``write_pages`` has written, the blocks straight into ``room``."""
    if (version := _member(archive, MARK, source)) != VERSION:
        raise source.refused(
            f"has layout {version[:9]!r}, and this pagemerge reads {VERSION!r}: load it with the "
            "pagemerge that made it"
        )
    stream = io.BytesIO(_member(archive, OBJECT, source))
    places, buffers, count = _places(_member(archive, PLACES, source), source)
    apart = {place.block for place in places if place.kind == "memory"}
    blocks = []
    for number in range(count):
        member = _info(archive, f"{BLOCK}{number}", source)
        with opened_member(archive, member, source) as file:
            blocks.append(
                room.fill(
                    member.file_size,
                    lambda part, file=file, name=member.filename: read_full(  # type: ignore[misc]
                        file, part, source, name
                    ),
                    apart=number in apart,
                )
            )
            finish(file, member.filename, source)
    room.close()
    return rebuilt(stream, places, blocks, buffers)


def write_pickle(obj: object, file: IO[bytes]) -> None:
    """Write a pickle of protocol 5, which ``pickle.load`` reads."""
    try:
        pickle.dump(obj, file, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"the object cannot be pickled: {reason(error)}") from error


def write_pages(obj: object, file: IO[bytes]) -> None:
    """Write a pickle and its buffers."""
    stream, collector = collected(obj, keep=False)
    blocks, places = laid_out(collector.parts)
    rows = [
        (place.block, place.offset, place.nbytes, place.kind, place.form and _fields(place.form))
        for place in places
    ]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(MARK, VERSION)
        archive.writestr(OBJECT, stream.getbuffer())
        archive.writestr(PLACES, pickle.dumps((rows, collector.buffers, len(blocks)), protocol=5))
        for number, block in enumerate(blocks):
            with archive.open(f"{BLOCK}{number}", "w", force_zip64=True) as member:
                for piece in _pieces(block):
                    member.write(piece.data)


def _pieces(block: Block) -> Iterator[Bytes]:
    """The bytes of a block as they will lie in its copy."""
    write = elements(block.dense) if block.dense is not None else None
    for start in range(0, block.nbytes, PIECE):
        size = min(PIECE, block.nbytes - start)
        if write:
            part = np.empty(size, np.uint8)
            write(part)
            yield part
        else:
            yield raw(block)[start : start + size]


def _places(text: bytes, source: Source) -> tuple[list[Place], list[int], int]:
    """The places of the parts, the numbers of those that the pickle takes in order, and blocks."""
    try:
        rows, buffers, count = pickle.loads(text)
        places = [
            Place(*row[:4], row[4] and Form(*row[4]))  # type: ignore[call-arg]
            for row in rows
        ]
        if not all(type(it) is int and 0 <= it < len(places) for it in buffers):
            raise ValueError("a buffer has no place")
        if not all(0 <= place.block < count for place in places):
            raise ValueError("a part lies in no block")
    except Exception as error:  # a pickle calls whatever it names
        raise source.damaged(f"{PLACES} cannot be read ({reason(error)})") from error
    return places, buffers, count


def _fields(form: Form) -> tuple[Any, ...]:
    return tuple(getattr(form, field.name) for field in fields(form))


def _info(archive: zipfile.ZipFile, name: str, source: Source) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(name)
    except KeyError:
        raise source.damaged(f"{name!r} is not in it") from None


def _member(archive: zipfile.ZipFile, name: str, source: Source) -> bytes:
    """All bytes of a member."""
    with opened_member(archive, _info(archive, name, source), source) as file:
        return file.readall() or b""


def _unpickled(file: IO[bytes], source: Source) -> Any:
    """Unpickle a file; whatever that raises becomes ``UsageError``."""
    buffered = io.BufferedReader(file)  # type: ignore[type-var]
    try:
        return pickle.load(buffered)
    except (PagemergeError, MemoryError):
        raise
    except Exception as error:  # as above
        why = f"{type(error).__name__}: {reason(error)}"
        raise source.damaged(f"it cannot be unpickled ({why})") from error
    finally:
        buffered.detach()  # or it would close the file
