"""The objects of ``pagemerge scan --json`` that forecast: ``--fit``, ``--compress``, ``--sample``.

Types for mypy, as in ``printed_scan``.
"""

from __future__ import annotations

from typing import TypedDict


class NoteFigures(TypedDict):
    """A note about one source."""

    name: str
    note: str


class CostFigures(TypedDict):
    """What one more process costs, in bytes."""

    without_merging: int
    kernel_engine: int
    kernel_engine_most: int
    """What the costliest of the processes adds with the kernel engine."""
    user_engine: int
    unshared: int
    """When it has written to all of its pages."""


class PartFigures(TypedDict):
    """Parts of what one more process costs, in bytes."""

    private: int
    """Its private pages, merged or not."""
    zero: int
    """Pages of `private` that are zeros."""
    own: int
    """Contents of `private` that no other process has."""
    huge: int
    """Transparent huge pages of 2 MiB in `private`."""
    tables_stacks_shared_memory: int
    kernel_engine_records: int
    user_engine_mappings: int


class LimitFigures(TypedDict):
    """The limit of one memory cgroup."""

    path: str
    file: str
    """Name of the file that holds the limit."""
    limit_bytes: int
    used_bytes: int
    """Charged to the group, page cache included."""
    cache_bytes: int
    """Page cache in `used_bytes`."""
    left_bytes: int
    """What the group can still take."""


class NowFigures(TypedDict):
    """The processes that run already, in bytes."""

    kernel_engine_would_save: int
    user_engine_would_save: int
    saved_before: int
    """What is shared already, since a fork or by merging, and can unshare."""


class PlanFigures(TypedDict):
    """Running as many more as fit."""

    more: int
    """Further processes that fit; the reserve stays free."""
    left_bytes: int
    """What is left with them, with the reserve."""
    missing_bytes_if_all_unshares: int
    """What is missing if every page of every process unshares at once; 0 if all of that fits."""
    seconds_until_full: float | None
    """Until memory is full at the rate of writes; null if it is not known, or nothing is
    missing."""


class PlansFigures(TypedDict):
    """How many fit, under each assumption."""

    without_merging: PlanFigures
    kernel_engine: PlanFigures
    user_engine: PlanFigures
    safe: PlanFigures
    """With merging, and with the reserve left even if everything unshares at once."""


class FitFigures(TypedDict):
    """How many more processes fit."""

    like: str
    """Name of the processes that were looked at."""
    processes_looked_at: int
    cost_bytes: CostFigures
    parts_bytes: PartFigures
    available_bytes: int
    """Of the host."""
    cgroup: LimitFigures | None
    """The memory cgroup with least left; null if no limit leaves less than the host."""
    left_bytes: int
    """The lower of the two."""
    reserve_bytes: int
    unsharing_bytes_per_second: float | None
    """What one such process unshares by writing; null: not known."""
    running_now_bytes: NowFigures
    plans: PlansFigures
    split_of_huge_page_frees_zero_pages: bool | None
    """This kernel also frees zero pages by splitting huge pages; null: not known."""


class IntervalFigures(TypedDict):
    """Bytes, and the interval that holds the true number in 95 of 100 cases."""

    value: int
    low: int
    high: int


class CompressorFigures(TypedDict):
    """What one compressor of zram saves."""

    saves_alone_bytes: IntervalFigures
    """Everything is compressed, nothing is merged."""
    saves_beside_merging_bytes: IntervalFigures
    """Of what merging keeps: saved in addition to merging."""
    saves_with_merging_bytes: IntervalFigures
    """Merged first, and what is left is compressed."""


class NearFigures(TypedDict):
    """The share of the pages kept that are nearly equal to another, from 0 to 1."""

    value: float
    low: float
    high: float
    mostly_zero: float
    """The share that is mostly zeros."""
    at_least: bool
    """True if there may be more, because not all pages were compared."""


class CompressFigures(TypedDict):
    """Merging compared with compression."""

    looked_at_bytes: int
    zero_bytes: int
    kept_by_merging_bytes: int
    merging_saves_bytes: int
    compressors: dict[str, CompressorFigures]
    """Name of a compressor -> what it saves."""
    same_filled_share_of_kept: float
    """Share of the pages kept that zram stores as one word, from 0 to 1."""
    near_duplicates_share_of_kept: NearFigures
    sampled_pages: int
    """Pages that were compressed."""
    lost_pages: int
    """Pages of the sample that were gone when their bytes were read, or are zeros since."""
    changed_pages: int
    """Pages of the sample that had other bytes than before; they count."""
    seconds: float


class SampledFigures(TypedDict):
    """The estimate for one trust domain, or for all together."""

    sources: int
    """Processes and images that could be read."""
    pages: int
    """Pages that were looked at: counted, not estimated."""
    zero_pages: int
    """Pages of these with all bytes zero: counted."""
    sampled_pages: int
    """Pages that were drawn."""
    changed_pages: int
    """Sampled pages that changed before they were counted."""
    saveable_bytes: int
    saveable_bytes_low: int
    """Lower end of the interval that holds the true number in 95 of 100 cases."""
    saveable_bytes_high: int
    """Its upper end."""


class DomainFigures(SampledFigures):
    """The estimate for one trust domain."""

    domain: str


class ErrorFigures(TypedDict):
    """A source that could not be read to its end; it counts nowhere."""

    name: str
    error: str


class EstimateFigures(TypedDict):
    """An estimate from a sample."""

    total: SampledFigures
    domains: list[DomainFigures]
    errors: list[ErrorFigures]
    confidence_percent: int
    page_size: int
    bytes_read: int
    seconds: float


class SampleFigures(TypedDict):
    """What ``pagemerge scan --sample --json`` prints."""

    sample: EstimateFigures
    not_found: list[str]
    """A message for each word that names no process."""
    notes: list[NoteFigures]
