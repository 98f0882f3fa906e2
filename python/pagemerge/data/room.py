"""Mergeable memory for many buffers, filled and merged in pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pagemerge import _core
from pagemerge.arrays import buffer
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

PIECE = 16 << 20
"""Bytes that are filled before they are merged; the hub merges as much in one answer."""
SMALL = 256 << 10
"""Below this many bytes, buffers lie together in one region: every region costs mappings."""
TOGETHER = 4 << 20
"""Size of such a region. It lives as long as the last of its buffers."""


class Room:
    """Makes buffers of one object: each of a page or more starts a page in mergeable memory.

    A buffer is a writable u8[nbytes] array, the base of everything that lies in it. ``close`` must
    be called before any of it is handed out: small buffers are merged only then.
    """

    def __init__(self) -> None:
        self._together: Bytes | None = None
        self._used = 0

    def copy(self, source: Bytes, *, apart: bool = False) -> Bytes:
        """Return a copy of ``source`` (contiguous u8[n]), merged.

        ``apart``: in a ``Memory`` of its own, however small it is.
        """
        if len(source) == 0 or (len(source) < SMALL and not apart):
            made = self._small(len(source))
            made[:] = source
            return made
        memory = buffer(len(source))
        _core.copy_into(source, memory)
        return np.frombuffer(memoryview(memory), np.uint8)

    def fill(self, nbytes: int, write: Callable[[Bytes], None], *, apart: bool = False) -> Bytes:
        """Return a buffer whose bytes come from ``write(part)``, called for one part after another.

        Each part but the last has ``PIECE`` bytes. ``apart`` as for ``copy``.
        """
        if nbytes == 0 or (nbytes < SMALL and not apart):
            made = self._small(nbytes)
            write(made)
            return made
        made = np.frombuffer(memoryview(buffer(nbytes)), np.uint8)
        for start in range(0, nbytes, PIECE):
            part = made[start : start + PIECE]
            write(part)
            _core.intern_pages(part)
        return made

    def close(self) -> None:
        """Merge the small buffers."""
        if self._together is not None and self._used:
            _core.intern_pages(self._together[: self._used])
        self._together, self._used = None, 0

    def _small(self, nbytes: int) -> Bytes:
        if nbytes < PAGE_SIZE:
            return np.zeros(nbytes, np.uint8)
        size = -(-nbytes // PAGE_SIZE) * PAGE_SIZE
        if self._together is None or self._used + size > TOGETHER:
            self.close()
            self._together = np.frombuffer(memoryview(buffer(TOGETHER)), np.uint8)
        # Through the buffer protocol: a plain slice of an array is not a base of its own.
        part = self._together.data[self._used : self._used + nbytes]
        self._used += size
        return np.frombuffer(part, np.uint8)
