"""What is known of one process that decides whether its memory merges; reads /proc, judges nothing.

``obstacles`` makes reasons of it. The costly part is smaps, which walks page tables: it is read for
processes that are to be explained only, and not where the caller says that there is too much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pagemerge import _core
from pagemerge.errors import NoSuchProcess, PagemergeError
from pagemerge.estimate.shares import Share
from pagemerge.find.engine import merged_by_us
from pagemerge.find.process import explain
from pagemerge.find.sources import ProcessSource
from pagemerge.find.survey import Row
from pagemerge.linux import cgroup, process
from pagemerge.linux.ksm import process_ksm
from pagemerge.linux.process import PROC
from pagemerge.linux.qemu import Machine, machine_of
from pagemerge.linux.smaps import Held, Piece, held, pieces
from pagemerge.model import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Saves:
    """What merging would free inside the process's domain, in bytes; parts may overlap."""

    total_bytes: int = 0
    unmarked_bytes: int = 0
    """In mappings that ksmd may not merge."""
    huge_bytes: int = 0
    """In transparent huge pages that are not split, at most."""
    locked_bytes: int = 0
    """In mappings locked by mlock(2)."""
    heap_bytes: int = 0
    """In the heap, the stack and mappings of files, which the user engine cannot merge."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one process."""

    pid: int
    domain: str = ""
    alone: bool = False
    """No other process of its trust domain was looked at."""
    saves: Saves = field(default_factory=Saves)
    unique_bytes: int = 0
    """Memory that was looked at and that no other page equals, in any domain."""
    elsewhere_bytes: int = 0
    """What merging would free beyond ``saves`` if all trust domains were one."""
    merged_bytes: int = 0
    """Memory that is merged now, by ksmd or by our own engine."""
    zeros_bytes: int = 0
    """The part of that that ksmd has mapped to the kernel's page of zeros; smaps counts no such."""
    ineligible_bytes: Mapping[str, int] = field(default_factory=dict)
    """A key of ``eligible.REASONS`` -> bytes."""
    locked_bytes: int = 0
    """Size of its locked mappings."""
    pinned_bytes: int = 0
    """Memory pinned for devices, which no engine can merge."""
    swapped_bytes: int = 0
    machine: Machine | None = None
    """What QEMU's command line says; None for other programs."""
    unit: str = ""
    """Its systemd unit; empty if it is in none."""
    opted_out: bool = False
    """ksmd has looked at its memory, and may not merge any of it now."""
    refusal: str = ""
    """Why it cannot be attached; empty if it can be, or if nothing would be gained."""
    user_engine: str = ""
    """Why only the user engine can merge it; empty otherwise."""


def facts(
    source: ProcessSource,
    row: Row,
    share: Share,
    *,
    proc: Path = PROC,
    check: Callable[[int], None] = _core.inject_check,
    details: bool = True,
) -> Facts:
    """Read what is known of the process of ``source``, which was looked at.

    ``row`` and ``share`` are what the look found. ``check`` raises the reason why a process cannot
    be attached, as ``_core.inject_check``. Without ``details``, smaps is not read, and some reasons
    cannot be told apart. Raises ``NoSuchProcess`` if the process has ended, and ``AccessDenied``.
    What only a newer kernel tells counts as not so.
    """
    pid = source.process.pid
    known = pieces(pid, proc) if details else []
    kernel = process_ksm(pid, proc)
    holds = held(pid, proc)
    saves = _saves(source, share, known, bool(kernel.merge_any or kernel.mergeable))
    engine = merged_by_us(pid, [it.mapping for it in known] or source.mappings, proc)
    unique_pages = row.pages - row.zero_pages - row.duplicate_pages - share.elsewhere_pages
    zeros = PAGE_SIZE * max(kernel.zero_pages or 0, 0)
    merged = sum(it.merged_bytes for it in known) + zeros
    locked = sum(it.mapping.end - it.mapping.start for it in known if it.locked)
    return Facts(
        pid,
        domain=row.domain,
        alone=share.alone,
        saves=saves,
        unique_bytes=max(unique_pages, 0) * PAGE_SIZE,
        elsewhere_bytes=share.elsewhere_bytes,
        merged_bytes=merged + row.merged_pages * PAGE_SIZE,
        zeros_bytes=zeros,
        ineligible_bytes=row.ineligible,
        locked_bytes=locked,
        pinned_bytes=holds.pinned_bytes + _pinned_by_vfio(holds, locked, known),
        swapped_bytes=holds.swapped_bytes,
        machine=_machine(pid, proc),
        unit=_unit(pid, proc),
        opted_out=bool(kernel.rmap_items) and kernel.mergeable is False and not kernel.merge_any,
        refusal=_refusal(source, check) if saves.unmarked_bytes and not engine else "",
        user_engine=engine,
    )


def _saves(source: ProcessSource, share: Share, known: Sequence[Piece], marked: bool) -> Saves:
    """Add up what merging would free in mappings of each kind.

    ``marked``: some memory is mergeable; used where smaps was not read, and then for all of it.
    """
    of = {it.mapping.start: it for it in known}
    total = unmarked = huge = locked = heap = 0.0
    for mapping, saved in zip(source.mappings, share.saves.tolist(), strict=True):
        total += saved
        heap += saved if mapping.inode or mapping.path[:1] == "[" else 0
        piece = of.get(mapping.start)
        if piece is None:  # smaps was not read, or the mapping has gone or grown downwards since
            unmarked += 0 if marked else saved
            continue
        unmarked += 0 if piece.mergeable else saved
        huge += min(saved, piece.huge_bytes)
        locked += saved if piece.locked else 0
    return Saves(int(total), int(unmarked), int(huge), int(locked), int(heap))


def _pinned_by_vfio(holds: Held, locked: int, known: Sequence[Piece]) -> int:
    """Find the memory that vfio has pinned: Linux counts it as locked (``vfio_lock_acct``), but no
    mapping of it is."""
    return max(holds.locked_bytes - locked, 0) if known else 0


def _refusal(source: ProcessSource, check: Callable[[int], None]) -> str:
    """Say why the process cannot be attached; raises ``NoSuchProcess``."""
    try:
        check(source.process.pid)
    except NoSuchProcess:
        raise
    except PagemergeError as error:
        return explain(error, source.process)
    return ""


def _machine(pid: int, proc: Path) -> Machine | None:
    try:
        return machine_of(process.arguments(pid, proc))
    except PagemergeError:
        return None


def _unit(pid: int, proc: Path) -> str:
    try:
        return cgroup.unit_of(cgroup.cgroup_of(cgroup.entries(pid, proc)))
    except PagemergeError:
        return ""
