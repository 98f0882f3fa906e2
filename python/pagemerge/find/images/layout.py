"""Where the pages of an image lie in its file: runs, and what stands for pages that it lacks.

A page has a *place*: the offset in the file of its bytes, or a negative number. ``ZERO_PAGE`` is a
page that the format says is zero and does not store. ``NO_PAGE`` is a page whose content the file
does not tell. ``FILLED - b`` is a page of which each byte is ``b``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pagemerge.model import PAGE_SIZE

Int64s = NDArray[np.int64]

ZERO_PAGE = -1
NO_PAGE = -2
FILLED = -256


class Layout(Protocol):
    """Where each page of an image lies."""

    @property
    def total(self) -> int:
        """Number of pages."""

    @property
    def holes(self) -> bool:
        """Places ascend, so holes of the file can be looked up."""

    def uniform(self, first: int, count: int) -> int | None:
        """Return the place that ``count`` pages from ``first`` on have in common, if it is negative
        and that is known without a look at each page."""

    def places(self, indices: Int64s) -> Int64s:
        """Return the place of each page of ``indices`` (int64[n], ascending): int64[n]."""

    def parts(self, indices: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Find the pages of ``indices`` that the file stores in part; their other bytes are zero.

        Returns, int64[p] each: positions in ``indices``, bytes before the stored ones, and number
        of stored bytes. The place of such a page is the offset of its stored bytes.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Runs of consecutive pages: arrays, 32 bytes a run, and never an object for a page."""

    ends: Int64s
    """int64[r]: pages up to the end of each run, those of the runs before included."""
    offsets: Int64s
    """int64[r]: place of each run's first page."""
    lead: Int64s
    """int64[r]: bytes of the first page before the stored ones; not 0 only in runs of one page."""
    length: Int64s
    """int64[r]: stored bytes of each page; less than a page only in runs of one page."""

    @property
    def total(self) -> int:
        """Number of pages."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def holes(self) -> bool:
        """Runs ascend in the file."""
        return True

    def uniform(self, first: int, count: int) -> int | None:
        """Return as ``Layout.uniform``."""
        run = int(np.searchsorted(self.ends, first, side="right"))
        place = int(self.offsets[run])
        return place if place < 0 and first + count <= int(self.ends[run]) else None

    def places(self, indices: Int64s) -> Int64s:
        """Return as ``Layout.places``."""
        run = np.searchsorted(self.ends, indices, side="right")
        places = self.offsets[run]
        before = np.where(run > 0, self.ends[run - 1], 0)
        stored = places >= 0
        places[stored] += (indices - before)[stored] * PAGE_SIZE
        return places

    def parts(self, indices: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Find as ``Layout.parts``."""
        run = np.searchsorted(self.ends, indices, side="right")
        length = self.length[run]
        rows = np.flatnonzero(length < PAGE_SIZE)
        return rows, self.lead[run[rows]], length[rows]


def runs(pages: Int64s, offsets: Int64s, lead: Int64s, length: Int64s) -> Runs:
    """Make ``Runs`` of arrays (int64[r] each); runs without pages are left out."""
    kept = pages > 0
    return Runs(np.cumsum(pages[kept]), offsets[kept], lead[kept], length[kept])


def segments(address: Int64s, offset: Int64s, stored: Int64s, zero_pages: int = 0) -> Runs:
    """Make ``Runs`` of segments of memory: int64[s] each, in the order of their offsets.

    ``address``: of the first byte. ``stored``: bytes in the file from ``offset`` on.
    ``zero_pages``: pages that no segment stores; they come last. A segment has the pages that it
    touches: its first and its last may be stored in part.
    """
    zeros = np.zeros(len(address), np.int64)
    lead = address % PAGE_SIZE
    head = np.where(lead > 0, np.minimum(PAGE_SIZE - lead, stored), 0)
    body = (stored - head) // PAGE_SIZE
    tail = stored - head - body * PAGE_SIZE
    at = offset + head

    def woven(last: int, *columns: Int64s) -> Int64s:
        return np.append(np.stack(columns, axis=1).reshape(-1), np.int64(last))

    return runs(
        woven(zero_pages, (head > 0).astype(np.int64), body, (tail > 0).astype(np.int64)),
        woven(ZERO_PAGE, offset, at, at + body * PAGE_SIZE),
        woven(0, lead, zeros, zeros),
        woven(PAGE_SIZE, head, zeros + PAGE_SIZE, tail),
    )


def cut_to_pages(address: Int64s, stored: Int64s) -> Int64s:
    """Return ``stored`` (int64[s], bytes from ``address`` on) without the last page's part.

    For segments of which the rest was cut off: what is not there is not zero.
    """
    return np.maximum(stored - (address + stored) % PAGE_SIZE, 0)
