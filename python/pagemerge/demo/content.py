"""Real data that every machine has: the files of numpy, of Python, and of the system's libraries.

Each file starts on a page of its own, as it would in a page cache or in a guest, so that a file
loaded by two processes makes equal pages. No file is used twice, because repeated data would
exaggerate the savings; so there may be less data than the user asked for.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pagemerge.errors import PagemergeError
from pagemerge.model import PAGE_SIZE

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Piece:
    """The first ``size`` bytes of a file, to be loaded at a page boundary."""

    path: str
    size: int

    @property
    def room(self) -> int:
        """Size of the pages that the piece takes, in bytes."""
        return -(-self.size // PAGE_SIZE) * PAGE_SIZE


def sources() -> Iterator[tuple[str, Path]]:
    """Yield the name and the folder of each source; data that programs really share comes first."""
    yield "numpy", Path(np.__file__).parent
    yield "the Python standard library", Path(sysconfig.get_path("stdlib"))
    yield "Python's own libraries", Path(sys.base_prefix) / "lib"
    yield "system libraries", Path("/usr/lib")


def collect(nbytes: int) -> tuple[list[Piece], list[str]]:
    """Collect files that fill ``nbytes`` (a whole number of pages), or all files if they are fewer.

    Returns the pieces in the order to load them, and the names of their sources.
    """
    pieces: list[Piece] = []
    names: list[str] = []
    seen: set[tuple[int, int]] = set()
    left = nbytes
    for name, folder in sources():
        for path, found in _files(folder):
            if left == 0:
                return pieces, names
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            piece = Piece(path, min(found.st_size, left))
            pieces.append(piece)
            left -= piece.room
            if name not in names:
                names.append(name)
    return pieces, names


def load(pieces: Iterable[Piece], memory: Bytes) -> None:
    """Read ``pieces`` into ``memory`` (uint8, page-aligned), one after the other.

    Raises ``PagemergeError`` if a file has changed since ``collect`` found it.
    """
    place = 0
    for piece in pieces:
        with Path(piece.path).open("rb", buffering=0) as file:
            read = file.readinto(memory[place : place + piece.size].data)
        if read != piece.size:
            raise PagemergeError(
                f"{piece.path} changed while it was loaded: run the demo again", path=piece.path
            )
        place += piece.room


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the readable regular files below ``folder``, in an order that does not change."""
    for here, folders, files in os.walk(folder):
        # Python may write compiled files while the demo runs.
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(files):
            path = Path(here) / name
            if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                continue
            found = path.stat()
            if found.st_size:
                yield str(path), found
