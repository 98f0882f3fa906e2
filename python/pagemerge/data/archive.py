"""Zip archives whose errors are ours. zipfile compares the CRC-32 of what is read to its end."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from pagemerge.data.files import Source
from pagemerge.data.words import reason

ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError),
    *(NotImplementedError, RuntimeError, IndexError, AttributeError),
)
"""What zipfile raises for archives that are damaged, encrypted, or packed in a way unknown here."""

DEFLATES = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1040}
"""How many times smaller a method can make bytes, at most (zlib.net/zlib_tech.html: 1032)."""

END = struct.Struct("<4s4H2LH")
"""The last record of an archive (PKWARE's APPNOTE 4.3.16); its fifth field counts the members."""


@contextmanager
def opened_archive(source: Source) -> Iterator[zipfile.ZipFile]:
    """Open a file as a zip archive. Raises ``UsageError`` if it is damaged."""
    try:
        archive = zipfile.ZipFile(source.file)
    except ERRORS as error:
        raise source.damaged(f"it cannot be read as a zip archive ({reason(error)})") from None
    with archive:
        # zipfile does not compare: a damaged length in one record would swallow the next.
        source.file.seek(-END.size - len(archive.comment), os.SEEK_END)
        *_, count, _, _, _ = END.unpack(source.file.read(END.size))
        if count not in (len(archive.infolist()) & 0xFFFF, 0xFFFF):
            raise source.damaged(f"it should have {count} members, and names others")
        yield archive


class Member(io.RawIOBase):
    """A member of an archive, open for reading."""

    def __init__(self, file: IO[bytes], source: Source) -> None:
        self._file, self._source = file, source

    def readinto(self, part: Any) -> int:
        """Read at most ``len(part)`` bytes. Raises ``UsageError`` if they are damaged."""
        try:
            data = self._file.read(len(part))
        except ERRORS as error:
            raise self._source.damaged(reason(error)) from None
        part[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def opened_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: Source) -> Member:
    """Open a member. Raises ``UsageError`` if it is damaged or encrypted."""
    most = DEFLATES.get(member.compress_type)
    if most is None:
        raise source.refused(
            f"has {member.filename!r} packed by method {member.compress_type} of zip: pack it "
            "again, stored or deflated"
        )
    if member.file_size > most * member.compress_size or member.compress_size > source.size:
        raise source.damaged(f"{member.filename!r} cannot have {member.file_size} bytes")
    try:
        return Member(archive.open(member), source)
    except ERRORS as error:
        raise source.damaged(f"{member.filename!r} cannot be read ({reason(error)})") from None


def finish(file: Member, name: str, source: Source) -> None:
    """Read to the end of a member, where its CRC-32 is compared: nothing may be left."""
    if file.read(1):
        raise source.damaged(f"{name!r} has more bytes than it should")
