"""What merging would free of each process, mapping by mapping; pure functions on arrays of a look.

All holders of a page get equal parts of what merging it frees, as in ``find.tally``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemerge._core import ABSENT
from pagemerge.find import tally
from pagemerge.find.look import Look
from pagemerge.find.sources import ProcessSource
from pagemerge.model import PAGE_SIZE


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What merging would free of one process."""

    saves: NDArray[np.float64]
    """f64[mappings of the source]: bytes that merging inside its domain would free."""
    elsewhere_bytes: int = 0
    """Bytes that merging would free beyond that, if all domains were one."""
    elsewhere_pages: int = 0
    """Pages that nothing in their domain equals, but a page of another domain does."""
    alone: bool = False
    """No other process of its domain was looked at."""


def shares(found: Look, chosen: Collection[int]) -> dict[int, Share]:
    """Find the shares of the processes with the pids ``chosen``, by pid.

    Besides the look it needs what ``tally.gains`` needs, for one domain at a time, and for all
    pages if there are several domains.
    """
    beyond = _all_together(found, chosen)
    result: dict[int, Share] = {}
    first = 0
    for domain in found.domains():
        here = [
            (at, source)
            for at, source in enumerate(domain.sources)
            if isinstance(source, ProcessSource) and source.process.pid in chosen
        ]
        if here:
            gain = tally.gains(domain.digests, domain.frames, zero_pages=True)
            alone = sum(1 for source in domain.sources if not source.error) == 1
            for at, source in here:
                own = gain[_pages(domain, at)]
                everywhere = None if beyond is None else beyond[_pages(found, first + at)]
                result[source.process.pid] = _share(source, own, everywhere, alone)
        first += len(domain.sources)
    return result


def _all_together(found: Look, chosen: Collection[int]) -> NDArray[np.float32] | None:
    """Compute the gain of each page if all processes were one domain: f32[pages].

    None if they are one domain anyway. Images count as absent: no process shares with them.
    """
    live = [isinstance(source, ProcessSource) for source in found.sources]
    domains = {it.domain for it, lives in zip(found.sources, live, strict=True) if lives}
    if len(domains) < 2 or not chosen:
        return None
    digests = found.digests
    if not all(live):
        digests = digests.copy()
        for at in np.flatnonzero(~np.array(live)).tolist():
            digests[_pages(found, at)] = ABSENT
    return tally.gains(digests, found.frames, zero_pages=True)


def _pages(found: Look, at: int) -> slice:
    return slice(int(found.offsets[at]), int(found.offsets[at + 1]))


def _share(
    source: ProcessSource,
    own: NDArray[np.float32],
    everywhere: NDArray[np.float32] | None,
    alone: bool,
) -> Share:
    saves = _sums(own, source.runs, source.pages.astype(np.int64)) * PAGE_SIZE
    if everywhere is None:
        return Share(saves, alone=alone)
    more = np.maximum(everywhere - own, 0).sum(dtype=np.float64)
    pages = int(np.count_nonzero((own == 0) & (everywhere > 0)))
    return Share(saves, int(more * PAGE_SIZE), pages, alone)


def _sums(
    gain: NDArray[np.float32], runs: Sequence[int], pages: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sum ``gain`` (f32[pages]) over each mapping: f64[mappings].

    ``runs``: number of runs of each mapping; ``pages``: i64[runs], pages in each run.
    """
    ends = np.concatenate(([0], np.cumsum(pages)))
    bounds = ends[np.cumsum([0, *runs])]
    before = np.concatenate(([0.0], np.cumsum(gain, dtype=np.float64)))
    sums: NDArray[np.float64] = before[bounds[1:]] - before[bounds[:-1]]
    return sums
