"""Reads a stream of QEMU in order: numbers, texts, and rows of records that look alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pagemerge.find.images.file import ImageFile

ROOM = 1 << 20
"""Bytes that are read at a time."""


class CutError(Exception):
    """The file ends here; for ``qemu`` only, which catches it."""


class Stream:
    """A position in a file; numbers are big endian, as in all streams of QEMU."""

    __slots__ = ("_base", "_buffer", "at", "file")

    def __init__(self, file: ImageFile, at: int) -> None:
        self.file = file
        self.at = at
        """Offset in the file of the next byte."""
        self._base, self._buffer = at, b""

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes. Raises ``CutError`` if there are fewer."""
        first = self.at - self._base
        if not 0 <= first <= len(self._buffer) - size:
            self._buffer = self.file.read(self.at, max(ROOM, size))
            self._base, first = self.at, 0
            if len(self._buffer) < size:
                raise CutError
        self.at += size
        return self._buffer[first : first + size]

    def number(self, size: int) -> int:
        """Return the next number, of ``size`` bytes."""
        return int.from_bytes(self.take(size), "big")

    def text(self) -> bytes:
        """Return the next text, which has its length in a byte before it."""
        return self.take(self.number(1))

    def skip(self, size: int) -> None:
        """Go on ``size`` bytes later. Raises ``CutError`` if the file ends before."""
        if self.at + size > self.file.size:
            raise CutError
        self.at += size

    def heads(self, stride: int, most: int) -> NDArray[np.uint64]:
        """Show the first 8 bytes of the next records of ``stride`` bytes, as far as they are in the
        buffer: u64[n], n at most ``most``. Does not go on."""
        number = min(most, (len(self._buffer) - (self.at - self._base)) // stride)
        if number <= 0:
            return np.empty(0, np.uint64)
        seen: NDArray[np.uint64] = np.ndarray(
            (number,), ">u8", self._buffer, self.at - self._base, (stride,)
        )
        return seen.astype(np.uint64)

    def bytes_at(self, offset: int, stride: int, number: int) -> NDArray[np.uint8]:
        """Show byte ``offset`` of the ``number`` records that ``heads`` showed: u8[number]."""
        first = self.at - self._base + offset
        return np.ndarray((number,), np.uint8, self._buffer, first, (stride,))
