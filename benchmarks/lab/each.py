"""Goes through the workloads of a benchmark: one that cannot run here does not end it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from pagemerge.errors import PagemergeError, Unsupported


def each(names: Iterable[str], act: Callable[[str], None]) -> tuple[int, int]:
    """Call ``act`` for each name; says why one is left out or fails.

    Returns how many this host lacks, and how many have failed.
    """
    lacking = failed = 0
    for name in names:
        try:
            act(name)
        except Unsupported as lack:
            lacking += 1
            print(f"{name} is left out: {lack}", file=sys.stderr, flush=True)
        except PagemergeError as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    return lacking, failed
