"""What a view, a record or a metric can show: the figures of one moment.

All are msgspec structs, because they go to files and sockets as JSON. A figure that this host or
this user does not get is None. Names come from processes: print them through ``text.plain`` only.
"""

from __future__ import annotations

import msgspec

from pagemerge.linux.knobs import Knobs, standstill


class Host(msgspec.Struct, frozen=True):
    """The memory of the host, or of the memory cgroup that limits us."""

    total_bytes: int
    available_bytes: int | None = None
    pressure_percent: float | None = None
    """PSI of memory, some avg10; None without PSI."""


class UserEngine(msgspec.Struct, frozen=True):
    """The hub: what its counters say (``hub.model.Status``)."""

    hub_pid: int
    seconds: float
    """Seconds since the hub started."""
    cpu_seconds: float
    """Processor time of the hub since then."""
    clients: int
    saved_bytes: int
    """Pages that clients do not hold because they share one or gave zeros back; nothing is
    subtracted."""
    profit_bytes: int
    """``saved_bytes`` less unused slots, records and mappings (KSM's general_profit)."""
    store_bytes: int
    metadata_bytes: int
    pages_shared: int
    pages_sharing: int
    zero_pages: int
    pages_unshared: int
    pages_volatile: int
    full_scans: int
    merges: int
    """Pages that present clients have merged since they came; a page counts each time."""
    separations: int
    """Merged pages of present clients that were seen to be written since they came."""


class KernelEngine(msgspec.Struct, frozen=True):
    """Kernel KSM and its governor; names as in /sys/kernel/mm/ksm."""

    run: int | None
    governor_pid: int | None
    """The process that drives ksmd; None if none does."""
    cpu_seconds: float | None
    """Processor time of ksmd since the host started; None in a container, which does not see it."""
    saved_bytes: int
    """pages_sharing and ksm_zero_pages, in bytes; they lag behind (``ksmd.merged``)."""
    profit_bytes: int | None
    pages_shared: int | None
    pages_sharing: int | None
    zero_pages: int | None
    pages_unshared: int | None
    pages_volatile: int | None
    full_scans: int | None
    pages_to_scan: int | None
    sleep_millisecs: int | None
    separations: int | None
    """Pages that were copied on a write since the host started (cow_ksm)."""

    @property
    def standstill(self) -> str:
        """Why ksmd does not scan; empty if it scans, as far as its knobs tell."""
        knobs = Knobs(
            run=self.run,
            pages_to_scan=self.pages_to_scan,
            sleep_millisecs=self.sleep_millisecs,
        )
        found = standstill(knobs)
        return "" if found is None else found.reason


class Row(msgspec.Struct, frozen=True):
    """One process with mergeable memory."""

    pid: int
    name: str
    """Its comm."""
    uid: int
    user: str
    engine: str
    """user | kernel."""
    domain: str
    """Trust domain; for the kernel engine, which is one domain, ``kernel KSM``."""
    guest: str
    """Name of the QEMU guest; empty for others."""
    unit: str
    """Its systemd unit; empty if it is in none."""
    cgroup: str
    memory_bytes: int
    """Anonymous memory that it has, and merged memory."""
    merged_bytes: int
    """Memory that maps stable pages, each counted in full, and zeros that were given back."""
    saved_bytes: int
    """Its part of what the engine saves: each mapping of a stable page gets the same, whatever page
    it maps."""
    merges: int | None
    """Pages merged since it came; kernel engine: unknown."""
    separations: int | None
    """Merged pages that were seen to be written since it came; kernel engine: unknown."""
    mappings: int
    """Its VMAs, of any kind."""
    mappings_limit: int
    """vm.max_map_count."""
    why: str
    """Why nothing of it merges; empty if something does, or if it is not known."""
    volatile_bytes: int | None = None
    """Memory that changed between the last two looks of the hub; kernel engine: unknown."""
    agent_cores: float | None = None
    """Processor time of its agent, as a share of a core, since its mappings were counted before;
    None: unknown, or it has no agent."""

    @property
    def label(self) -> str:
        """The name that people know it by: its guest's, its unit's, or its own."""
        return self.guest or self.unit or self.name


class Decision(msgspec.Struct, frozen=True):
    """One decision of the governor."""

    time: float
    """Unix time in seconds."""
    reason: str
    knobs: dict[str, int | str] = {}
    """What was written to ksmd's knobs."""


class Moment(msgspec.Struct, frozen=True):
    """The figures of one moment."""

    time: float
    """Unix time in seconds."""
    host: Host
    user: UserEngine | None = None
    """None: no hub answers."""
    kernel: KernelEngine | None = None
    """None: this kernel has no KSM."""
    rows: tuple[Row, ...] = ()
    """Ascending by pid; a process that both engines know has one row, of the user engine."""
    decisions: tuple[Decision, ...] = ()
    """Decisions since the moment before, oldest first."""

    @property
    def saved_bytes(self) -> int:
        """What both engines save together."""
        engines = (self.user, self.kernel)
        return sum(engine.saved_bytes for engine in engines if engine is not None)
