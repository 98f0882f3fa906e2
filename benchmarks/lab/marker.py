"""A process that marks what it is told for ksmd: ``python -m lab.marker PARENT``.

Its memory is 30% pages that every process has, and 70% unique ones, laid out in several ways.
"""

from __future__ import annotations

import ctypes
import os
import sys

import numpy as np
import numpy.typing as npt

from pagemerge.demo.dialog import Answer, die_with_parent, serve

from . import worker

PR_SET_MEMORY_MERGE = 67
MADV_MERGEABLE = 12
LONGEST_CLUMP = 63

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Marker(worker.Worker):
    """Each public method answers one question."""

    def mark_all(self) -> Answer:
        """All memory of the process, as a process is opted in (prctl(2))."""
        _checked(LIBC.prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0))
        return {}

    def mark(self, ranges: list[tuple[int, int]]) -> Answer:
        """Ranges of addresses, as ``--select`` marks them."""
        for start, end in ranges:
            _checked(LIBC.madvise(start, end - start, MADV_MERGEABLE))
        return {}


def shared_pages(pages: int) -> int:
    """How many of ``pages`` every process has."""
    return pages * 3 // 10


def clumps(pages: int, index: int) -> worker.U64:
    """Shared pages in clumps of 1 to 63, each somewhere else in every process."""
    random = np.random.default_rng(index)
    lengths = random.integers(1, LONGEST_CLUMP + 1, shared_pages(pages))
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), shared_pages(pages))) + 1]
    lengths[-1] -= lengths.sum() - shared_pages(pages)
    own = random.multinomial(pages - shared_pages(pages), [1 / len(lengths)] * len(lengths))
    # The gaps of a multinomial are too much alike: let each have a random share of its neighbour's.
    moved = random.integers(0, own + 1)
    own += np.roll(moved, 1) - moved
    kind = np.repeat(np.arange(2 * len(lengths)) % 2, np.ravel(np.column_stack((own, lengths))))
    return _numbered(kind == 1, np.arange(shared_pages(pages)), index)


def scattered(pages: int, index: int) -> worker.U64:
    """Shared pages strewn over the memory, elsewhere and in another order in every process."""
    random = np.random.default_rng(index)
    shared = np.zeros(pages, np.bool_)
    shared[random.permutation(pages)[: shared_pages(pages)]] = True
    return _numbered(shared, random.permutation(shared_pages(pages)), index)


def _numbered(
    shared: npt.NDArray[np.bool_], order: npt.NDArray[np.int64], index: int
) -> worker.U64:
    """Contents: the shared pages in ``order``, the others unlike any other process's."""
    numbers = np.arange(len(shared), dtype=np.uint64) + (np.uint64(index + 1) << np.uint64(32))
    numbers[shared] = order.astype(np.uint64)
    return numbers


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


LAYOUTS = {"runs": worker.unique70, "clumps": clumps, "scattered": scattered}


def main() -> None:
    """Answer until the pipe is closed; ends with the benchmark in any case."""
    die_with_parent(int(sys.argv[1]))
    worker.SCENES.update(LAYOUTS)
    marker = Marker()
    serve({verb: getattr(marker, verb) for verb in ("open", "fill", "check", "mark_all", "mark")})


if __name__ == "__main__":
    main()
