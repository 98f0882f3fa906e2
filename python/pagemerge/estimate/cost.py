"""Works out what one more process costs, from a look at some like it, and what merging saves now.

The costs are checked against memory cgroups in ``tests/integration/test_fit.py``:

- Without merging, one more process costs its private pages, its page tables, the kernel's stacks of
  its threads, and its part of shared memory. Pages that it shares since a fork cost nothing.
- With merging it costs the contents that no other process has (``marginal``), all that is not
  private pages, and what merging itself takes. Kernel KSM keeps a record of 64 bytes for each page,
  and one frame for each ``max_page_sharing`` mappings of a content. The user engine needs a mapping
  for each run of merged pages.
- In the worst case the process writes to all of its pages.

Zero pages count as saved because each engine frees them by itself: ksmd one by one, with
use_zero_pages=1, which pagemerge sets; the user engine by giving them back. That Linux 6.12 and
later also free the zero pages of each huge page that they split is not counted on (``splits``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from pagemerge._core import ABSENT, ZERO
from pagemerge.errors import NoSuchProcess, PagemergeError
from pagemerge.estimate.marginal import Marginal, counts, marginal
from pagemerge.find import stable, tally
from pagemerge.find.look import Look
from pagemerge.find.sources import ProcessSource, Source
from pagemerge.find.tally import mapped_before
from pagemerge.linux.aside import readers
from pagemerge.linux.charges import Charges, charges, ksm_zero_pages
from pagemerge.linux.ksm import Ksm
from pagemerge.linux.room import Room, inside
from pagemerge.model import PAGE_SIZE

RECORD_BYTES = 64
"""What kernel KSM keeps for each page that it looks at (Linux mm/ksm.c, ``ksm_rmap_item``)."""

MAPPING_BYTES = 287
"""What a mapping costs the kernel, measured with 60,000 mappings of one page (``hub/decide``)."""

SHARING = 256
"""Linux's default of max_page_sharing."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one more process costs, in bytes; the average of those that were looked at."""

    apart_bytes: float = 0.0
    """Without merging. Pages shared since a fork cost nothing."""
    kernel_bytes: float = 0.0
    """Merged by the kernel engine, with what that takes."""
    user_bytes: float = 0.0
    """Merged by the user engine, in memory that programs mark as mergeable."""
    unshared_bytes: float = 0.0
    """When it has written to all of its pages."""
    private_bytes: float = 0.0
    """Its private pages, merged or not."""
    zero_bytes: float = 0.0
    """Pages of ``private_bytes`` that are zeros, mapped to the kernel's page of zeros or not."""
    own_bytes: float = 0.0
    """Contents of ``private_bytes`` that no other process has."""
    other_bytes: float = 0.0
    """Page tables, stacks in the kernel and shared memory: in each of the first four."""
    record_bytes: float = 0.0
    """Records of kernel KSM, in ``kernel_bytes``."""
    mapping_bytes: float = 0.0
    """Mappings of merged pages, in ``user_bytes``; at least."""
    huge_bytes: float = 0.0
    """Transparent huge pages of 2 MiB in ``private_bytes``."""

    def __add__(self, other: Cost) -> Cost:
        names = [field.name for field in fields(self)]
        return Cost(*(getattr(self, name) + getattr(other, name) for name in names))

    def divided(self, by: int) -> Cost:
        """Divide all figures."""
        return Cost(*(getattr(self, field.name) / by for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Running:
    """What merging saves of the processes that run already, and has saved, in bytes.

    Without memory images, and without processes outside the memory cgroup that limits the room.
    """

    kernel_bytes: int
    """What the kernel engine would still save, less its records."""
    user_bytes: int
    """What the user engine would still save, at most."""
    saved_bytes: int
    """What is shared already, since a fork or by merging, and can unshare."""


def costs(found: Look, models: Sequence[int]) -> list[Cost]:
    """Work out what each of ``models`` (indices into ``found.sources``) adds to the others.

    Processes that have ended are left out. Raises ``NoSuchProcess`` or another ``PagemergeError``
    if none of them is left.
    """
    wanted = {id(found.sources[index]) for index in models}
    rules = _Rules.read()
    made: list[Cost] = []
    trouble: list[PagemergeError] = []
    for domain in found.domains():
        here = [at for at, source in enumerate(domain.sources) if id(source) in wanted]
        if not here:
            continue
        every = marginal(domain.digests, domain.frames, domain.offsets)
        marked = marginal(_marked(domain), domain.frames, domain.offsets)
        for at in here:
            try:
                made.append(_cost(every, marked, at, _besides(domain.sources[at]), rules))
            except PagemergeError as error:
                trouble.append(error)
    if not made:
        raise trouble[0] if trouble else NoSuchProcess("none of the models could be looked at")
    return made


def running(found: Look, left: Room) -> Running:
    """Add up what merging saves of the processes that were looked at, inside the limit of
    ``left``."""
    kernel = user = saved = 0
    for domain in found.domains():
        counted = np.array([_counts(source, left) for source in domain.sources], np.bool_)
        if not counted.any():
            continue
        before = mapped_before(domain.frames)
        pages = int(counts(domain.digests > ZERO, domain.offsets)[counted].sum())
        kernel += max(_gain(domain, domain.digests, counted) - RECORD_BYTES * pages, 0)
        user += _gain(domain, _marked(domain), counted)
        saved += PAGE_SIZE * int(counts(before, domain.offsets)[counted].sum())
        processes = [
            source
            for source, counts_here in zip(domain.sources, counted.tolist(), strict=True)
            if counts_here and isinstance(source, ProcessSource)
        ]
        merged = stable.count(it for source in processes for it in source.stretches)
        zeros = zero_pages_of([source.process.pid for source in processes])
        saved += PAGE_SIZE * (merged.saved_pages + zeros)
    return Running(kernel, user, saved)


@dataclass(frozen=True, slots=True)
class _Rules:
    """How ksmd treats pages, by its knobs."""

    sharing: int
    """Mappings of one frame, before ksmd keeps another."""
    zero_costs: bool
    """It merges zero pages as others; else it maps the kernel's page of zeros, and drops the
    record."""

    @classmethod
    def read(cls) -> _Rules:
        """Read the knobs. pagemerge sets use_zero_pages where there is one (Linux 4.12)."""
        knobs = Ksm().knobs()
        return cls(max(knobs.max_page_sharing or SHARING, 2), knobs.use_zero_pages is None)


@dataclass(frozen=True, slots=True)
class _Besides:
    """What a source has besides the pages that were looked at."""

    charges: Charges
    slab_pages: int
    """Stable pages of a hub that it maps."""


def _besides(source: Source) -> _Besides:
    if not isinstance(source, ProcessSource):
        return _Besides(Charges(), 0)
    return _Besides(charges_of(source.process.pid), stable.count(source.stretches).pages)


def charges_of(pid: int) -> Charges:
    """Read ``charges``, aside. Raises ``PagemergeError``."""
    return readers.call(pid, charges, pid)


def zero_pages_of(pids: Sequence[int]) -> int:
    """Add up ``ksm_zero_pages`` of processes, aside; one that keeps us waiting adds nothing."""
    return sum(it for it in readers.quick(ksm_zero_pages, pids) if isinstance(it, int))


def _marked(domain: Look) -> tally.UInt64s:
    """Return the digests of the pages that the user engine could be given; others are absent."""
    return np.where(domain.markable(), domain.digests, np.uint64(ABSENT))


def _gain(domain: Look, digests: tally.UInt64s, counted: np.ndarray) -> int:
    """Add up the bytes that merging would free in the sources ``counted`` (bool[sources])."""
    gain = tally.gains(digests, domain.frames, zero_pages=True)
    sums = [gain[a:b].sum(dtype=np.float64) for a, b in pairwise(domain.offsets.tolist())]
    return int(PAGE_SIZE * np.array(sums)[counted].sum())


def _counts(source: Source, left: Room) -> bool:
    """Does the source take memory of ``left``?"""
    if source.error or not isinstance(source, ProcessSource):
        return False
    return left.limit is None or inside(source.process.pid, left.limit)


def _cost(every: Marginal, marked: Marginal, at: int, besides: _Besides, rules: _Rules) -> Cost:
    """Work out what source ``at`` of a domain adds.

    ``every``: with all pages mergeable, as for the kernel engine; ``marked``: with those that the
    user engine could be given.
    """
    extra = besides.charges
    pages, zero, own = int(every.pages[at]), int(every.zero[at]), int(every.own[at])
    forked = max(int(every.mapped[at]) - extra.ksm_pages, 0)
    everything = pages + extra.ksm_zero_pages + besides.slab_pages
    copies = int(every.shareable[at]) + (zero if rules.zero_costs else 0)
    records = RECORD_BYTES * (pages if rules.zero_costs else pages - zero)
    mappings = MAPPING_BYTES * int(marked.runs[at])
    return Cost(
        apart_bytes=PAGE_SIZE * (everything - forked) + extra.bytes,
        kernel_bytes=PAGE_SIZE * (own + copies / rules.sharing) + records + extra.bytes,
        user_bytes=PAGE_SIZE * int(marked.own[at]) + mappings + extra.bytes,
        unshared_bytes=PAGE_SIZE * everything + extra.bytes,
        private_bytes=PAGE_SIZE * everything,
        zero_bytes=PAGE_SIZE * (zero + extra.ksm_zero_pages),
        own_bytes=PAGE_SIZE * own,
        other_bytes=extra.bytes,
        record_bytes=records,
        mapping_bytes=mappings,
        huge_bytes=extra.huge_bytes,
    )
