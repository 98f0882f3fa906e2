"""The objects that ``pagemerge scan --json`` prints: every key and its meaning.

Types for mypy, which compares them with the code that makes the objects. The reference of the site
is written from them.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from pagemerge.cli.show.printed_forecast import CompressFigures, FitFigures, NoteFigures


class ByKind(TypedDict):
    """What merging would free, by what the pages are."""

    zero: int
    """Pages of zeros."""
    within: int
    """Duplicates within a process."""
    across: int
    """Duplicates across processes."""


class ByEngine(TypedDict):
    """What each engine could free at most."""

    kernel: int
    user: int
    """In anonymous mappings only."""


class TotalFigures(TypedDict):
    """All processes and images together."""

    pages: int
    """Pages that were looked at."""
    zero_pages: int
    """Pages with all bytes zero."""
    duplicate_pages_within: int
    """Pages that are not zero, beyond the first with their content in their process."""
    duplicate_pages_across: int
    """For each content in several processes, one page for each process beyond the first."""
    already_shared_pages: int
    """Pages beyond the first in their physical page, zeros too: nothing is left to save."""
    saveable_bytes: int
    """What merging would save."""
    saveable_bytes_by_kind: ByKind
    saveable_bytes_by_engine_at_most: ByEngine
    merged_pages: int
    """Mappings of a hub's stable pages; not among `pages`."""
    merged_saved_bytes: int
    """What a hub has saved of these processes before."""
    ineligible_bytes: int
    """Memory that is present and cannot be merged."""
    ineligible_bytes_by_reason: dict[str, int]


class RowFigures(TypedDict):
    """One process or memory image; if it has an error, all figures are 0."""

    pid: int | None
    """Null for a memory image, as `uid`."""
    name: str
    uid: int | None
    domain: str
    """Its trust domain."""
    pages: int
    """Anonymous pages that were present and could be read."""
    zero_pages: int
    """Pages of `pages` with all bytes zero."""
    duplicate_pages: int
    """Pages of `pages` that are not zero, with their content at least once more in the trust
    domain."""
    shared_pages: int
    """Pages in one physical page with another page that was looked at: since a fork, or merged by
    Linux."""
    saveable_bytes: int
    """Its part of what merging would save: all holders of a page get equal parts."""
    merged_pages: int
    """Stable pages of a hub that it maps; not among `pages`."""
    unreadable_pages: int
    """Pages that were present a moment before, and could not be read."""
    ineligible_bytes: int
    """Memory that is present and cannot be merged."""
    ineligible_bytes_by_reason: dict[str, int]
    error: str | None
    """Why it could not be looked at."""


class SurveyFigures(TypedDict):
    """What merging would save."""

    totals: TotalFigures
    processes: list[RowFigures]
    processes_left_out: int
    """Processes that `--top` leaves out."""
    not_found: list[str]
    """A message for each word that names no process."""
    page_size: int
    """Bytes of a page."""
    seconds: float
    """Time that the scan took."""
    bytes_read: int
    bytes_per_second: int
    """How fast pages were read and digested."""


class PriceFigures(TypedDict):
    """What keeping the trust domains apart costs."""

    domains: int
    """Trust domains with pages that were looked at."""
    saveable_bytes_apart: int
    """With each domain by itself: the default."""
    saveable_bytes_together: int
    """If all domains were one."""
    saveable_bytes_zero_only: int
    """If only zero pages are merged."""


class WatchFigures(TypedDict):
    """What several looks have shown."""

    looks: int
    seconds: float
    """From the first look to the last."""
    saveable_pages: int
    """Physical pages that merging would free, by the last look."""
    stable_pages: int
    """Of these, the part of pages that stayed unchanged from the first look to the last."""
    volatile_pages: int
    """The part of pages that were there from the first look on, and were written."""
    new_pages: int
    """The part of pages that have appeared since the first look."""
    gone_pages: int
    """Of what merging would have freed by the first look: pages that have been freed since."""
    expected_bytes: int
    """What merging frees and what is still free one look later, in the mean."""
    least_pages: int
    """The same in pages, after the worst interval between two looks."""
    most_pages: int
    """The same in pages, after the best interval between two looks."""
    unshared_pages_per_second: float
    """Duplicates that are written in a second: each would take a page again."""


class FileFigures(TypedDict):
    """A file whose pages lie in memory once more."""

    path: str
    build_id: str
    """Of an ELF file, in hexadecimal; else empty."""
    saveable_bytes: int


class KindFigures(TypedDict):
    """All contents of one kind."""

    kind: str
    saveable_bytes: int
    contents: int
    """Number of different contents."""
    copies: int
    copies_by_name: dict[str, int]
    """Name of processes -> copies that they have."""
    copies_by_mapping: dict[str, int]
    """Kind of mapping -> copies in such mappings."""
    files: list[FileFigures]


class ContentFigures(TypedDict):
    """One content that lies in memory more than once."""

    kind: str
    saveable_bytes: int
    copies: int
    domain: str
    """Its trust domain."""
    file: str | None
    """The file that has this page."""
    file_page: int | None
    """Number of the page in the file."""
    build_id: str | None
    """Of an ELF file, in hexadecimal."""
    first_bytes: str
    """The first bytes of the page, in hexadecimal; empty if it was not read."""
    copies_by_name: dict[str, int]
    copies_by_mapping: dict[str, int]


class ContentsFigures(TypedDict):
    """What the duplicates are."""

    kinds: list[KindFigures]
    """Those that save most first."""
    top: list[ContentFigures]
    """The contents that save most."""


class GroupFigures(TypedDict):
    """One group of processes."""

    name: str
    processes: int
    pages: int
    zero_pages: int
    own_duplicate_pages: int
    """Copies that only this group has."""
    shared_pages: int
    """Pages that another group of the same trust domain has, too."""
    exclusive_pages: int
    """The rest."""
    saveable_bytes: int


class PairFigures(TypedDict):
    """Two groups that have pages in common."""

    first: str
    second: str
    common_pages: int
    """Different pages that both have, without zeros."""


class SharingFigures(TypedDict):
    """Who shares with whom."""

    group_by: str
    """What a group is."""
    groups: list[GroupFigures]
    compared: list[str]
    """Groups that were compared with each other."""
    pairs: list[PairFigures]


class ReasonFigures(TypedDict):
    """One reason why memory does not merge."""

    kind: str
    bytes: int
    text: str
    """The reason in a sentence."""
    cure: str
    """What to do; empty if nothing can be done."""


class ExplainedFigures(TypedDict):
    """One process, and why its memory does not merge."""

    pid: int
    name: str
    guest: str | None
    """The name of the QEMU guest."""
    memory_bytes: int
    """Its memory, without unchanged pages of files."""
    merged_bytes: int
    """Memory that is merged now; each page counts in full."""
    reasons: list[ReasonFigures]
    error: str | None
    """Why nothing more is known of it."""


class WhyFigures(TypedDict):
    """Why processes merge little or nothing."""

    bytes_by_kind: dict[str, int]
    """Kind of reason -> bytes; kinds may overlap."""
    processes: list[ExplainedFigures]
    """The largest first."""
    processes_left_out: int
    """Processes that merge little as well, but are smaller."""


class AnswerFigures(SurveyFigures):
    """What ``pagemerge scan --json`` prints. Options add members."""

    trust: PriceFigures
    watch: NotRequired[WatchFigures]
    """With `--watch`."""
    contents: NotRequired[ContentsFigures]
    """With `--what`."""
    sharing: NotRequired[SharingFigures]
    """With `--group-by`."""
    why: NotRequired[WhyFigures]
    """With `--why`."""
    fit: NotRequired[FitFigures]
    """With `--fit`."""
    compress: NotRequired[CompressFigures]
    """With `--compress`."""
    notes: list[NoteFigures]
