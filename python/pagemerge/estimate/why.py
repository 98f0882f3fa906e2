"""Tells why processes merge little or nothing: for each the reasons, most bytes first, with cures.

The look at all pages has been done. This reads more of the processes that are to be explained only:
the largest ones, because smaps walks page tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pagemerge import _core
from pagemerge.errors import PagemergeError
from pagemerge.estimate.facts import Facts, facts
from pagemerge.estimate.obstacles import HARD, Reason, reasons
from pagemerge.estimate.scanning import Ksmd, ksmd
from pagemerge.estimate.shares import shares
from pagemerge.find.look import Look
from pagemerge.find.process import explain
from pagemerge.find.sources import ProcessSource
from pagemerge.find.survey import Row, Survey
from pagemerge.linux.aside import readers
from pagemerge.linux.ksm import is_mergeable, process_ksm
from pagemerge.linux.process import PROC
from pagemerge.model import PAGE_SIZE

MOST = 20
"""Processes that are explained if the caller does not say how many."""

MOST_MAPPINGS = 200_000
"""Mappings of all processes together for which smaps is read: some seconds."""


@dataclass(frozen=True, slots=True)
class Explained:
    """One process, and why its memory does not merge."""

    pid: int
    name: str
    """For people; print it through ``text.plain`` only."""
    memory_bytes: int
    """Its memory, without unchanged pages of files: what was looked at, merged, swapped out, or
    cannot be merged."""
    guest: str = ""
    """The name of the QEMU guest; print it as ``name``."""
    merged_bytes: int = 0
    """Memory that is merged now; each page counts in full."""
    reasons: tuple[Reason, ...] = ()
    error: str = ""
    """Why nothing more is known of it."""


@dataclass(frozen=True, slots=True)
class Why:
    """Why processes merge little or nothing."""

    processes: tuple[Explained, ...]
    """The largest first."""
    left_out: int
    """Processes that merge little as well, but are smaller."""

    def bytes_by_kind(self) -> dict[str, int]:
        """Sum the reasons of all processes by kind, most bytes first; kinds may overlap."""
        sums: dict[str, int] = {}
        for reason in (it for one in self.processes for it in one.reasons):
            sums[reason.kind] = sums.get(reason.kind, 0) + reason.bytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


def why(
    found: Look,
    result: Survey,
    most: int = MOST,
    *,
    everyone: bool = False,
    more: Mapping[int, Sequence[Reason]] | None = None,
    kernel: Callable[[int], Ksmd] = ksmd,
    proc: Path = PROC,
    check: Callable[[int], None] = _core.inject_check,
) -> Why:
    """Explain the ``most`` largest processes of a look that merge little or nothing.

    ``result`` is the survey of the look. ``everyone``: all processes of the host were looked at.
    ``more``: pid -> reasons that the caller knows. ``kernel`` reads the state of ksmd for a number
    of marked pages. ``check`` is as in ``facts``. Nothing is raised for a process that ends
    meanwhile: it has an ``error``.
    """
    rows = {row.pid: row for row in result.rows if row.pid is not None}
    sources = [
        it for it in found.sources if isinstance(it, ProcessSource) and it.process.pid in rows
    ]
    asked = [(rows[it.process.pid], proc) for it in sources]
    poor = _which(sources, _merges_little, asked)
    poor.sort(key=lambda it: -_memory(rows[it.process.pid]))
    chosen = poor[:most]
    known = shares(found, {it.process.pid for it in chosen})
    marked = _which(sources, is_mergeable, [(it.process.pid, proc) for it in sources])
    # At most: not all memory of a process that has marked some need be marked.
    state = kernel(sum(it.total for it in marked))
    explained, left = [], MOST_MAPPINGS
    for source in chosen:
        pid, row = source.process.pid, rows[source.process.pid]
        left -= source.mapped
        try:
            ask = partial(facts, proc=proc, check=check, details=left >= 0)
            about = readers.call(pid, ask, source, row, known[pid])
        except PagemergeError as error:
            told = explain(error, source.process)
            explained.append(Explained(pid, row.name, _memory(row), error=told))
            continue
        given = (more or {}).get(pid, ())
        listed = reasons(about, state, given, everyone=everyone)
        explained.append(_explained(row, about, listed))
    return Why(tuple(explained), len(poor) - len(chosen))


def _which(
    sources: Sequence[ProcessSource],
    function: Callable[..., bool],
    arguments: Sequence[tuple[Any, ...]],
) -> list[ProcessSource]:
    """Return the sources for which a function that looks at their process is true."""
    told = readers.quick(function, [it.process.pid for it in sources], arguments)
    return [it for it, is_so in zip(sources, told, strict=True) if is_so is True]


def _explained(row: Row, about: Facts, found: tuple[Reason, ...]) -> Explained:
    return Explained(
        about.pid,
        row.name,
        _memory(row) + about.swapped_bytes + about.zeros_bytes,
        about.machine.guest if about.machine else "",
        about.merged_bytes,
        found,
    )


def _memory(row: Row) -> int:
    """Add up the memory of a process, in bytes: all but unchanged pages of files, and swap."""
    hard = sum(row.ineligible.get(kind, 0) for kind in HARD)
    return (row.pages + row.merged_pages) * PAGE_SIZE + hard


def _merges_little(row: Row, proc: Path) -> bool:
    """Is less than half of the memory merged, or shared since a fork?"""
    if row.error or row.pid is None:
        return False
    merged = row.merged_pages + row.shared_pages
    if 2 * merged * PAGE_SIZE >= _memory(row):
        return False
    try:  # pages that ksmd has mapped to the kernel's page of zeros are not looked at
        zeros = max(process_ksm(row.pid, proc).zero_pages or 0, 0)
    except PagemergeError:
        zeros = 0
    return 2 * (merged + zeros) * PAGE_SIZE < _memory(row) + zeros * PAGE_SIZE
