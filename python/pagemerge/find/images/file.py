"""The file of a memory image: opened with care, and read only with pread(2).

A file may be a trap: a FIFO would block, a device may act when it is opened, and another process
may cut the file while we read. So a file is opened without waiting, checked before a byte is read,
and never mapped: a mapping of a file that becomes shorter kills the reader with SIGBUS (mmap(2)).
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pagemerge.errors import AccessDenied, OutOfMemory, PagemergeError, UsageError
from pagemerge.linux.accounts import available_bytes
from pagemerge.linux.text import open_quietly, plain
from pagemerge.model import PAGE_SIZE

Int64s = NDArray[np.int64]
Bytes = NDArray[np.uint8]

KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
CURES = {
    errno.ENOENT: "give the path of a file that exists",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.ELOOP: "its symbolic links form a circle",
    errno.ENAMETOOLONG: "give a shorter path",
}
BYTES_A_PAGE = 24
"""What the comparison of a page takes: its digest, its frame, and room to sort it."""
UNKNOWN_HOST = 4 << 30
"""Bytes that we count on if the kernel does not tell how much memory is available."""
MOST_STRETCHES = 1 << 20
"""More stretches of data than this are not told apart; then holes are read as zeros."""


class ImageFile:
    """An open file. Its descriptor closes with the last reference to this object."""

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises ``UsageError`` for what is no regular file, does not exist or is empty,
        ``AccessDenied``, ``PagemergeError``.
        """
        self.path = path
        self.label = plain(os.fsdecode(path))
        try:
            self.descriptor = open_quietly(
                path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise self._refused(error) from None
        self._closing = weakref.finalize(self, os.close, self.descriptor)
        found = os.fstat(self.descriptor)
        if not stat.S_ISREG(found.st_mode):
            self._closing()
            what = next((name for test, name in KINDS if test(found.st_mode)), "no regular file")
            raise self.usage(f"is {what}: give a regular file, for example a core dump")
        self.identity = found.st_dev, found.st_ino
        """The same for two paths of one file."""
        self.size = found.st_size
        """Bytes, when it was opened."""
        self.sparse = found.st_blocks * 512 < found.st_size
        """It may have holes."""
        if not self.size:
            self._closing()
            raise self.usage("is empty: was the dump cut short? Make it anew")

    def usage(self, what: str) -> UsageError:
        """Return the error that says ``what`` of this file."""
        return UsageError(f"{self.label} {what}", path=os.fsdecode(self.path))

    def malformed(self, what: str, offset: int) -> UsageError:
        """Return the error for contents at ``offset`` that are not as the format says."""
        return self.usage(f"is damaged at byte {offset}: {what}: make the dump anew")

    def check_claim(self, pages: float) -> None:
        """Raise ``UsageError`` if this host cannot compare ``pages`` pages: a file may claim any
        number of them."""
        available = available_bytes() or UNKNOWN_HOST
        if pages * BYTES_A_PAGE > available:
            raise self.usage(
                f"claims to hold {_size(pages * PAGE_SIZE)} of memory: to compare that takes "
                f"{_size(pages * BYTES_A_PAGE)}, and this host has {_size(available)} available: "
                "use a host with more memory, or check whether the file is damaged"
            )

    def _refused(self, error: OSError | ValueError) -> PagemergeError:
        if isinstance(error, ValueError):
            return self.usage("cannot be a path: it has a NUL byte")
        if isinstance(error, PermissionError):
            return AccessDenied(
                f"{self.label} may not be read by this user: run as its owner or as root",
                path=os.fsdecode(self.path),
            )
        cure = CURES.get(error.errno or 0)
        if cure:
            return self.usage(f"cannot be opened: {error.strerror}: {cure}")
        return PagemergeError(
            f"{self.label} cannot be opened: {error.strerror}", path=os.fsdecode(self.path)
        )

    def read(self, offset: int, length: int) -> bytes:
        """Read up to ``length`` bytes at ``offset``; fewer only at the end of the file.

        Raises ``PagemergeError`` if the disk fails, ``OutOfMemory``.
        """
        length = max(0, min(length, self.size - offset))
        try:
            data = np.empty(length, np.uint8)
        except MemoryError:
            raise OutOfMemory(f"{self.label}: no memory for {length} bytes of it") from None
        got, why = self.read_into(data, offset)
        if why:
            raise PagemergeError(
                f"{self.label} cannot be read at byte {offset + got}: {why}: check its disk",
                path=os.fsdecode(self.path),
            )
        return data[:got].tobytes()

    def read_into(self, data: Bytes, offset: int) -> tuple[int, str]:
        """Fill ``data`` (u8[n]) with the bytes at ``offset``.

        Returns how many bytes were read, and the kernel's reason if that is fewer because of an
        error; it is empty at the end of the file.
        """
        done = 0
        while done < len(data):
            try:
                got = os.preadv(self.descriptor, [data[done:].data], offset + done)
            except (OSError, OverflowError) as error:  # OverflowError: beyond 2^63 bytes
                return done, getattr(error, "strerror", None) or "beyond all files"
            if not got:
                break
            done += got
        return done, ""

    def stretches(self, start: int, end: int) -> tuple[Int64s, Int64s]:
        """Find the stretches of [start, end) that the file system stores (lseek(2), SEEK_DATA).

        Returns where they start and end, int64[s] each; what lies between them is zeros. A file
        system that does not tell, or too many stretches, give one stretch.
        """
        starts, ends = array("q"), array("q")
        at = start
        try:
            while at < end and len(starts) < MOST_STRETCHES:
                first = os.lseek(self.descriptor, at, os.SEEK_DATA)
                if first >= end:
                    break
                at = min(os.lseek(self.descriptor, first, os.SEEK_HOLE), end)
                starts.append(first)
                ends.append(at)
            else:
                if at < end:
                    ends[-1] = end
        except (OSError, OverflowError) as error:
            if getattr(error, "errno", None) != errno.ENXIO:  # no data up to the end of the file
                return np.array([start]), np.array([end])
        return np.array(starts, np.int64), np.array(ends, np.int64)


def _size(amount: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:,.4g} PiB" if amount < 1024 else f"{amount / 1024:,.4g} EiB"
