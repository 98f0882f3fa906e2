"""The dataclasses that stages hand each other; frozen, and free of I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy takes longer to import than the whole command line
    import numpy as np
    import numpy.typing as npt

PAGE_SIZE = 4096
"""Bytes in a page; hosts with another page size are refused at import of ``_core``."""

BLOCK = 512
"""Pages of a block (2 MiB): the unit in which looking is paced."""

ABSENT = 0
"""The digest of a page that was not looked at."""
ZERO = 1
"""The digest of a page of zeros."""

LOOKS = 15
"""The half of ``Pages.standing`` that counts looks, and the most it counts."""

NO_SLOT = 0xFFFF_FFFF
"""A page that maps no slot."""
ZERO_SLOT = 0xFFFF_FFFE
"""A zero page that was given back."""
OWN_SLOT = 0xFFFF_FFFD
"""In a plan: a page that shall leave the slab under it. Slot numbers are smaller than this."""

PAGE_BYTES, BLOCK_BYTES = 17, 5
"""What a hub remembers of a page and of a block: ``Pages``."""


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """What is remembered of a region: ``PAGE_BYTES`` a page and ``BLOCK_BYTES`` a block, changed in
    place."""

    digest: npt.NDArray[np.uint64]
    """u64[n]: as last seen; ``ABSENT``, ``ZERO`` or XXH3-64."""
    standing: npt.NDArray[np.uint8]
    """u8[n]: looks in a row that saw it (low half), and how often in a row it changed in spite of
    that (high half); see ``decide.restless``."""
    slot: npt.NDArray[np.uint32]
    """u32[n]: what the page maps; a slot's number in its domain, ``ZERO_SLOT`` or ``NO_SLOT``."""
    under: npt.NDArray[np.uint32]
    """u32[n]: the slot whose mapping stands under the page, though it may have been written since;
    as long as it does, its slab cannot die."""
    quiet: npt.NDArray[np.uint8]
    """u8[blocks]: looks in a row without a yield."""
    wait: npt.NDArray[np.uint8]
    """u8[blocks]: cycles that the block is still passed over."""
    untouched: npt.NDArray[np.bool_]
    """bool[blocks]: no look has found anything there yet."""
    looked: npt.NDArray[np.uint16]
    """u16[blocks]: when it was looked at, in seconds on the hub's clock, of which 16 bits count."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Pages that may be merged, in order of client and address; one element a page."""

    client: npt.NDArray[np.uint32]
    """u32[n]: number of the client in this cycle."""
    address: npt.NDArray[np.uint64]
    """u64[n]: bytes, in that client."""
    digest: npt.NDArray[np.uint64]
    """u64[n]."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which candidate maps which slot."""

    slot: npt.NDArray[np.uint32]
    """u32[n]: one element a candidate; ``NO_SLOT``: leave it alone."""
    donors: npt.NDArray[np.int64]
    """i64[m]: the candidates whose bytes fill the new slots, in order of the slots' numbers."""
    first_new: int
    """The number of the first new slot, for this plan only: what the store gives may differ."""

    def new(self, slot: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Which of these numbers are new slots': bool[n]."""
        return (slot >= self.first_new) & (slot < OWN_SLOT)


@dataclass(frozen=True, slots=True)
class Planned:
    """What a plan means for one client."""

    pid: int
    pages: int
    """Pages that would map a slot."""
    zero_pages: int
    """Pages that would be given back."""
    mappings: int
    """VMAs that this would cost it."""
    new_slots: int
    """New stable pages that would be filled from it."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Consecutive pages that map consecutive slots."""

    first: npt.NDArray[np.int64]
    """i64[r]: index of each run's first page among the pages given."""
    pages: npt.NDArray[np.int64]
    """i64[r]."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Elements of a digest array that share their digest with at least one other."""

    members: npt.NDArray[np.int64]
    """int64[m]: indices of the elements, group after group, ascending inside each."""
    starts: npt.NDArray[np.int64]
    """int64[groups + 1]: where each group starts in ``members``; the last is m."""

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One client of a hub, as ``pagemerge status`` shows it."""

    pid: int
    name: str
    uid: int
    domain: str
    """Trust domain: pages are shared inside it only."""
    barrier: str
    """move | write-protect | park | intern (no background merging)."""
    regions: int
    """Mergeable ranges."""
    bytes: int
    """Bytes in those ranges, present or not."""
    merged_pages: int
    """Pages of this client that map a slot now."""
    zero_pages: int
    """Pages given back because they were zero."""
    mappings: int
    """VMAs that merging added, as the agent counts them: one a merged run."""
    skipped: dict[str, int]
    """Reason -> pages that were candidates and were left alone."""
    note: str
    """Why this client is refused or held back; empty where it is not."""
    merges: int = 0
    """Pages merged since the client came; a page counts each time."""
    separations: int = 0
    """Merged pages that were seen to be written since the client came."""


@dataclass(frozen=True, slots=True)
class Status:
    """The counters of a hub (KSM's names); pages unless the name says otherwise."""

    engine: str
    hub_pid: int
    pages_shared: int
    """Stable pages in use."""
    pages_sharing: int
    """Mappings of stable pages beyond the first of each."""
    zero_pages: int
    """Zero pages given back."""
    pages_unshared: int
    """Looked at, stable, and unique."""
    pages_volatile: int
    """Changed between the last two looks."""
    full_scans: int
    """Cycles that looked at every region of every client."""
    store_bytes: int
    """Memory that the slabs of all domains hold."""
    metadata_bytes: int
    """Memory that the hub's own per-page records hold."""
    general_profit_bytes: int
    """Bytes saved, less slots nobody shares, less metadata and mappings."""
    cpu_seconds: float
    """Processor time of the hub since it started (user and system)."""
    seconds: float
    """Since the hub started."""
    clients: tuple[ClientStatus, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Where the duplicates of one process lie: which of its pages merging would free.

    A *stretch* is a number of duplicates at consecutive addresses in one mapping; 28 bytes each.
    Only mappings of which pages were looked at are here, and all arrays ascend by address.
    """

    pid: int
    name: str
    start: npt.NDArray[np.uint64]
    """u64[m]: address of each mapping's first byte."""
    end: npt.NDArray[np.uint64]
    """u64[m]: address behind its last."""
    looked: npt.NDArray[np.int64]
    """i64[m + 1]: pages looked at before each mapping, and all of them."""
    address: npt.NDArray[np.uint64]
    """u64[s]: of each stretch's first page."""
    pages: npt.NDArray[np.int64]
    """i64[s]."""
    before: npt.NDArray[np.int64]
    """i64[s]: pages looked at before the stretch."""
    gain: npt.NDArray[np.float32]
    """f32[s]: frames that merging the stretch frees; every holder of a page counts the same."""
    mappings: int = 0
    """VMAs of the process, of any kind."""
    error: str = ""
    """Why the process could not be looked at; all arrays are empty then."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The ranges of one process that are worth being marked as mergeable."""

    pid: int
    name: str
    start: npt.NDArray[np.uint64]
    """u64[r]: page-aligned; ascending, disjoint, each inside one mapping."""
    end: npt.NDArray[np.uint64]
    """u64[r]."""
    looked: int
    """Pages that marking the whole process would have ksmd look at."""
    marked: int
    """Pages that it will look at."""
    duplicates: int
    """Of these, pages that merge, if their like are marked too."""
    left_out: int
    """Duplicates that are not marked."""
    gain: float
    """Pages of memory that marking these frees."""
    mappings: int
    """VMAs that marking adds to the process."""
    error: str = ""
    """Why the process could not be looked at; there are no ranges then."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First byte and byte behind of each."""
        return list(zip(self.start.tolist(), self.end.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is, as far as rules ask.

    ``uid`` and ``cgroup`` (so ``unit``) are the kernel's word; ``name``, ``command`` and ``guest``
    are what the process says of itself.
    """

    pid: int
    start_time: int
    """Clock ticks since the host started; pid and start_time name one process for good."""
    uid: int
    """Effective user id."""
    user: str
    """The name of ``uid``; where it has none, the number."""
    name: str
    """Its comm: at most 15 bytes."""
    command: str
    """Its arguments, with a blank between each two: the first 32 kB."""
    cgroup: str
    """Path in the hierarchy that systemd or the container engine uses; ``/`` if in none."""
    unit: str
    """The unit of the system's systemd that it runs in, as the cgroup is named; else empty."""
    guest: str
    """Of a QEMU process, what ``-name`` calls the guest; else empty."""
    ours: bool = False
    """It says that it is a command of pagemerge's own: a hub, or about to run a program."""


@dataclass(frozen=True, slots=True)
class Knobs:
    """The knobs of kernel KSM, named as its files; None where this kernel has no such file.

    Source: Documentation/admin-guide/mm/ksm.rst of Linux.
    """

    run: int | None = None
    """0: ksmd stands, what is merged stays so; 1: it scans; 2: it has undone all merging."""
    pages_to_scan: int | None = None
    """Pages of a batch; set by the advisor while that is scan-time."""
    sleep_millisecs: int | None = None
    """Between two batches."""
    merge_across_nodes: int | None = None
    max_page_sharing: int | None = None
    """Mappings of one physical copy, before another is kept."""
    stable_node_chains_prune_millisecs: int | None = None
    use_zero_pages: int | None = None
    """Map zero pages to the kernel's own page of zeros."""
    smart_scan: int | None = None
    """Pass over pages that did not merge before, ever longer."""
    advisor_mode: str | None = None
    """none | scan-time."""
    advisor_max_cpu: int | None = None
    """Percent of one core."""
    advisor_min_pages_to_scan: int | None = None
    advisor_max_pages_to_scan: int | None = None
    advisor_target_scan_time: int | None = None
    """Seconds for one full scan."""


@dataclass(frozen=True, slots=True)
class KsmCounters:
    """The counters of kernel KSM, for the whole host; pages unless the name says otherwise.

    None where this kernel has no such file.
    """

    full_scans: int | None = None
    """Scans of all mergeable memory that were completed."""
    pages_scanned: int | None = None
    """Looks at a page, since the host started."""
    pages_shared: int | None = None
    """Stable pages in use."""
    pages_sharing: int | None = None
    """Mappings of stable pages beyond the first of each."""
    pages_unshared: int | None = None
    """Looked at, and unique."""
    pages_volatile: int | None = None
    """Changed between two looks."""
    pages_skipped: int | None = None
    """Looks that smart_scan has saved, since the host started."""
    ksm_zero_pages: int | None = None
    """Pages that map the kernel's page of zeros."""
    general_profit_bytes: int | None = None
    """Bytes saved, less ksmd's own records."""
    stable_node_chains: int | None = None
    stable_node_dups: int | None = None


@dataclass(frozen=True, slots=True)
class Goals:
    """What the admin wants of the governor."""

    cpu_percent: float = 20.0
    """Of one core that ksmd and the governor may use over time."""
    burst_seconds: float = 30.0
    """Processor seconds that may be spent at once, saved up while ksmd stands."""
    price_bytes: float = 100_000.0
    """Bytes a second that a percent of a core must gain: a processor second, 100 times as many."""
    pressure_percent: float = 5.0
    """Share of the time in which something waits for memory (PSI some avg10) from which on memory
    counts for more: the budget is a whole core then, and the price a tenth."""
    available_percent: float = 10.0
    """Share of the host's memory below which the same holds if no more is available."""
    merge_across_nodes: int | None = None
    """To be set before the first page is merged, since the kernel refuses it after; None: leave it.
    """


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the governor knows at one moment."""

    seconds: float
    """On the monotonic clock."""
    knobs: Knobs
    counters: KsmCounters
    spent_seconds: float
    """Processor time of ksmd and of the governor itself, so far."""
    processes: int
    """That have mergeable memory."""
    resident_bytes: int
    """Their anonymous memory."""
    available_bytes: int | None = None
    total_bytes: int = 0
    """Of the host."""
    pressure: float | None = None
    """PSI: percent of the last ten seconds in which something waited for memory."""
    changed_share: float | None = None
    """Of a sample: what differs from the last look, and not from the sample before. None where
    none was taken."""
    moving_share: float | None = None
    """Of the same sample: what differs from the sample before."""
    promised_bytes: int | None = None
    """What the finder says merging would still save; None where it did not look."""
    merged_bytes: int | None = None
    """What is merged now, counted frame by frame (``find.merged``), zero pages too; None where it
    did not look or cannot tell."""
    look_seconds: float = 0.0
    """Processor time that this look took."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the governor does now, and what it wants to know next."""

    knobs: Knobs
    """Those to write; None: leave it."""
    reason: str
    wait_seconds: float
    """Until the next snapshot."""
    sample: bool = False
    """The next snapshot shall tell what has changed."""
    look: bool = False
    """The next snapshot shall tell what merging would save."""
    topic: str = ""
    """What ``reason`` is about, if that is to be told once even where no knob is written: done, or
    why ksmd stands (nobody, little, restless). Figures in ``reason`` change; this does not."""
