"""A memory image as a source of pages, whatever its format."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge._core import ABSENT, ZERO
from pagemerge.find.images.file import ImageFile
from pagemerge.find.images.gather import gather, gather_parts, in_holes
from pagemerge.find.images.layout import FILLED, NO_PAGE, ZERO_PAGE, Layout
from pagemerge.find.sources import STEP, Piece
from pagemerge.model import PAGE_SIZE

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Bytes = NDArray[np.uint8]

CHUNK = 256
"""Pages that one thread reads at a time: 1 MiB stays in the cache while it is digested."""


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What a parser has found in a file."""

    kind: str
    """The format, for people: "ELF core"."""
    layout: Layout
    notes: tuple[str, ...] = ()
    """What is missing or was assumed; each is a clause without a capital and a full stop."""


@dataclass(slots=True, eq=False)
class ImageSource:
    """The pages of one memory image, in the order of its format."""

    file: ImageFile
    found: Contents
    domain: Hashable
    error: str = ""
    """Always empty: a file that cannot be read as an image at all is refused when it is opened, and
    ``note`` tells of pages that could not be read."""
    unreadable: int = 0
    """Pages that the last ``read`` could not read."""
    hole_pages: int = 0
    """Pages that the last ``read`` found to be zero because the file does not store them."""
    _why: str = ""
    _room: UInt64s = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def name(self) -> str:
        """The path; print it through ``text.plain`` only."""
        return os.fsdecode(self.file.path)

    @property
    def kind(self) -> str:
        """The format, for people."""
        return self.found.kind

    @property
    def total(self) -> int:
        """Number of pages."""
        return self.found.layout.total

    @property
    def markable(self) -> NDArray[np.bool_]:
        """All pages: an image stands for memory that its program could give the user engine."""
        return np.broadcast_to(np.True_, self.total)

    @property
    def note(self) -> str:
        """What is missing from the image, or was assumed; empty if nothing. One line."""
        notes = list(self.found.notes)
        if self.unreadable:
            cause = self._why or "the file has become shorter: is a program still writing it?"
            notes.append(f"{self.unreadable} pages could not be read ({cause})")
        return "; ".join(notes)

    def read(self, seed: int, threads: int) -> Iterator[Piece]:
        """Read as ``Source.read``; pages that the file does not have are ``ABSENT``."""
        self.unreadable = self.hole_pages = 0
        self._why = ""
        most = min(STEP, self.total)
        self._room = np.empty(most, np.uint64)
        constant = {ZERO_PAGE: np.full(most, ZERO, np.uint64), NO_PAGE: np.zeros(most, np.uint64)}
        unknown = np.full(most, ABSENT, np.uint64)
        layout = self.found.layout
        with ThreadPoolExecutor(max(1, threads)) as pool:  # starts threads when they have work
            for first in range(0, self.total, STEP):
                count = min(STEP, self.total - first)
                alike = layout.uniform(first, count)
                if alike in constant:
                    self.hole_pages += count if alike == ZERO_PAGE else 0
                    yield Piece(constant[alike][:count], unknown[:count], 0)
                    continue
                indices = np.arange(first, first + count, dtype=np.int64)
                digests = self._room[:count]
                size = self._digest(indices, digests, seed, pool if threads > 1 else None)
                yield Piece(digests, unknown[:count], size)

    def contents(self, indices: Int64s) -> Bytes:
        """Read as ``Source.contents``."""
        data = np.zeros((len(indices), PAGE_SIZE), np.uint8)
        places = self.found.layout.places(indices)
        for byte in _fillings(places):
            data[places == FILLED - byte] = byte
        rows, lead, length = self.found.layout.parts(indices)
        whole = _in_file_order(places, rows)
        for first in range(0, len(whole), CHUNK):
            here = whole[first : first + CHUNK]
            buffer = np.empty((len(here), PAGE_SIZE), np.uint8)
            missing, _, _ = gather(self.file, places[here], buffer)
            data[here[~missing]] = buffer[~missing]
        if len(rows):
            buffer = np.empty((len(rows), PAGE_SIZE), np.uint8)
            missing, _, _ = gather_parts(self.file, places[rows], lead, length, buffer)
            data[rows[~missing]] = buffer[~missing]
        return data

    def _digest(
        self, indices: Int64s, out: UInt64s, seed: int, pool: ThreadPoolExecutor | None
    ) -> int:
        """Write the digests of pages (int64[n]) to ``out`` (u64[n]); return the bytes read."""
        layout = self.found.layout
        places = layout.places(indices)
        out[:] = ABSENT
        out[places == ZERO_PAGE] = ZERO
        for byte in _fillings(places):
            out[places == FILLED - byte] = _digest_of(np.full(PAGE_SIZE, byte, np.uint8), seed)
        rows, lead, length = layout.parts(indices)
        whole = _in_file_order(places, rows)
        if layout.holes and self.file.sparse and len(whole):
            size = os.fstat(self.file.descriptor).st_size
            empty = in_holes(self.file, places[whole], size)
            out[whole[empty]] = ZERO
            whole = whole[~empty]
        self.hole_pages += int((out == ZERO).sum())

        def work(here: Int64s) -> tuple[int, int, str]:
            data = np.empty((len(here), PAGE_SIZE), np.uint8)
            return _digested(data, gather(self.file, places[here], data), here, out, seed)

        def work_in_part(at: slice) -> tuple[int, int, str]:
            here = rows[at]
            data = np.empty((len(here), PAGE_SIZE), np.uint8)
            found = gather_parts(self.file, places[here], lead[at], length[at], data)
            return _digested(data, found, here, out, seed)

        chunks = [whole[at : at + CHUNK] for at in range(0, len(whole), CHUNK)]
        done = list(pool.map(work, chunks) if pool and len(chunks) > 1 else map(work, chunks))
        done += map(work_in_part, (slice(at, at + CHUNK) for at in range(0, len(rows), CHUNK)))
        self.unreadable += sum(missing for _, missing, _ in done)
        self._why = self._why or next((why for *_, why in done if why), "")
        return sum(size for size, _, _ in done)


def _digested(
    data: Bytes, found: tuple[NDArray[np.bool_], int, str], rows: Int64s, out: UInt64s, seed: int
) -> tuple[int, int, str]:
    """Write the digests of ``data`` (u8[n, 4096]) to ``rows`` (int64[n]) of ``out``.

    ``found``: what ``gather`` returned. Returns the bytes read, the pages missing, and why.
    """
    missing, size, why = found
    digests = np.empty(len(rows), np.uint64)
    _core.digest(data.reshape(-1), seed, digests)
    digests[missing] = ABSENT
    out[rows] = digests
    return size, int(missing.sum()), why


def _digest_of(page: Bytes, seed: int) -> np.uint64:
    digest = np.empty(1, np.uint64)
    _core.digest(page, seed, digest)
    return np.uint64(digest[0])


def _fillings(places: Int64s) -> list[int]:
    """List the bytes of which filled pages consist."""
    return [FILLED - place for place in np.unique(places[places <= FILLED]).tolist()]


def _in_file_order(places: Int64s, parts: Int64s) -> Int64s:
    """Return the positions of the pages that are stored whole, ordered by their place."""
    stored = places >= 0
    stored[parts] = False
    rows = np.flatnonzero(stored)
    here = places[rows]
    return rows if (here[1:] >= here[:-1]).all() else rows[np.argsort(here, kind="stable")]
