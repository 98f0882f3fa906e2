"""Reads the figures of one moment: from a hub, from kernel KSM, and from /proc.

Reading costs little enough to do it every second: about 15 microseconds for each process of the
host, and 0.2 milliseconds for each process with mergeable memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import HubError, PagemergeError
from pagemerge.hub import reach
from pagemerge.hub.model import ClientStatus, Status
from pagemerge.ksmd.mergeable import Mergeable, asked
from pagemerge.linux import accounts
from pagemerge.linux.aside import readers
from pagemerge.linux.identity import Identities, Identity, user_name
from pagemerge.linux.ksm import Ksm, ProcessKsm, cow_ksm, process_ksm
from pagemerge.linux.process import PROC, most_mappings, stat, threads
from pagemerge.linux.text import lines, read
from pagemerge.model import PAGE_SIZE
from pagemerge.watch.model import Decision, Host, KernelEngine, Moment, Row, UserEngine

KERNEL_DOMAIN = "kernel KSM"

AGENT = "pagemerge"
"""The name of the agent's thread."""

RECOUNT = 20
"""Processes whose mappings and agents are looked at in one moment, those looked at longest ago
first: the kernel takes a millisecond for each thousand mappings."""

THREADS = 32
"""Threads of a process among which its agent is searched: it starts early."""

UNREAD = Identity(0, 0, 0, "", "", "", "/", "", "")
"""A process that ended meanwhile."""


@dataclass(frozen=True, slots=True)
class Count:
    """What was found in a process whose mappings were counted."""

    at: float
    """When, on the monotonic clock."""
    mappings: int
    agent_seconds: float | None
    agent_cores: float | None
    """Of the time since the count before."""


NOT_COUNTED = Count(0.0, 0, None, None)


class Collector:
    """Reads moments, and remembers between them what does not change.

    ``socket``: where the hub listens (default: this user's hub). ``decisions``: returns the
    governor's decisions since it was called last.
    """

    def __init__(
        self,
        socket: Path | None = None,
        decisions: Callable[[], Sequence[Decision]] = tuple,
        ksm: Ksm | None = None,
    ) -> None:
        self._socket, self._decisions, self._ksm = socket, decisions, ksm or Ksm()
        self._identities = Identities()
        self._mergeable = Mergeable(asked)
        self._counts: dict[int, Count] = {}
        """By pid."""
        self.no_hub = ""
        """Why the last moment has no user engine."""

    def moment(self) -> Moment:
        """Read the figures of now. Nothing is raised for what cannot be read: it is left out."""
        now = time.time()
        hub = self._hub()
        present = {who.pid: who for who in self._identities.present()}
        kernel = self._kernel_engine()
        rows = {} if kernel is None else {it.pid: it for it in self._kernel_rows(kernel, present)}
        if hub is not None:
            rows |= {one.pid: _client_row(one, hub, present) for one in hub.clients}
        self._count(rows)
        limit = most_mappings()
        return Moment(
            now,
            Host(accounts.total_bytes(), accounts.available_bytes(), accounts.pressure_percent()),
            None if hub is None else _user_engine(hub),
            kernel,
            tuple(self._counted(rows[pid], limit) for pid in sorted(rows)),
            tuple(self._decisions()),
        )

    def _hub(self) -> Status | None:
        self.no_hub = ""
        try:
            return reach.fetch_status(self._socket)
        except HubError as error:
            self.no_hub = str(error)
            return None

    def _kernel_engine(self) -> KernelEngine | None:
        if not self._ksm.root.exists():
            return None
        counters, knobs = self._ksm.counters(), self._ksm.knobs()
        saved = (counters.pages_sharing or 0) + (counters.ksm_zero_pages or 0)
        return KernelEngine(
            run=knobs.run,
            governor_pid=self._ksm.driver(),
            cpu_seconds=self._ksm.ksmd_cpu_seconds(),
            saved_bytes=saved * PAGE_SIZE,
            profit_bytes=counters.general_profit_bytes,
            pages_shared=counters.pages_shared,
            pages_sharing=counters.pages_sharing,
            zero_pages=counters.ksm_zero_pages,
            pages_unshared=counters.pages_unshared,
            pages_volatile=counters.pages_volatile,
            full_scans=counters.full_scans,
            pages_to_scan=knobs.pages_to_scan,
            sleep_millisecs=knobs.sleep_millisecs,
            separations=cow_ksm(),
        )

    def _kernel_rows(self, engine: KernelEngine, present: Mapping[int, Identity]) -> Iterable[Row]:
        self._mergeable.refresh(time.monotonic())
        pids = self._mergeable.pids
        part = _part(engine.pages_shared or 0, engine.pages_sharing or 0)
        for pid, found in zip(pids, readers.quick(process_ksm, pids), strict=True):
            if isinstance(found, PagemergeError):
                continue
            merging, zero = found.merging_pages or 0, max(found.zero_pages or 0, 0)
            merged = PAGE_SIZE * (merging + zero)
            why = "" if merged else _why(found, engine.standstill)
            yield _row(
                present.get(pid, UNREAD),
                pid=pid,
                engine="kernel",
                domain=KERNEL_DOMAIN,
                merged_bytes=merged,
                saved_bytes=int(PAGE_SIZE * (merging * part + zero)),
                why=why,
            )

    def _count(self, rows: Iterable[int]) -> None:
        """Look at the mappings and agents of processes that have waited longest for that."""
        known, now = self._counts, time.monotonic()
        self._counts = {pid: known.get(pid, NOT_COUNTED) for pid in rows}
        due = sorted(self._counts, key=lambda pid: self._counts[pid].at)[:RECOUNT]
        for pid, found in zip(due, readers.each(_looked_at, due), strict=True):
            if not isinstance(found, tuple):
                continue
            before, (mappings, agent) = self._counts[pid], found
            cores = None
            if agent is not None and before.agent_seconds is not None and now > before.at:
                cores = max(agent - before.agent_seconds, 0.0) / (now - before.at)
            self._counts[pid] = Count(now, mappings, agent, cores)

    def _counted(self, row: Row, limit: int) -> Row:
        import msgspec

        count = self._counts[row.pid]
        return msgspec.structs.replace(
            row, mappings=count.mappings, mappings_limit=limit, agent_cores=count.agent_cores
        )


def _user_engine(hub: Status) -> UserEngine:
    return UserEngine(
        hub_pid=hub.hub_pid,
        seconds=hub.seconds,
        cpu_seconds=hub.cpu_seconds,
        clients=len(hub.clients),
        saved_bytes=(hub.pages_sharing + hub.zero_pages) * PAGE_SIZE,
        profit_bytes=hub.general_profit_bytes,
        store_bytes=hub.store_bytes,
        metadata_bytes=hub.metadata_bytes,
        pages_shared=hub.pages_shared,
        pages_sharing=hub.pages_sharing,
        zero_pages=hub.zero_pages,
        pages_unshared=hub.pages_unshared,
        pages_volatile=hub.pages_volatile,
        full_scans=hub.full_scans,
        merges=sum(one.merges for one in hub.clients),
        separations=sum(one.separations for one in hub.clients),
    )


def _client_row(one: ClientStatus, hub: Status, present: Mapping[int, Identity]) -> Row:
    part = _part(hub.pages_shared, hub.pages_sharing)
    merged = PAGE_SIZE * (one.merged_pages + one.zero_pages)
    skipped = max(one.skipped, key=lambda reason: one.skipped[reason], default="")
    return _row(
        present.get(one.pid, UNREAD),
        pid=one.pid,
        engine="user",
        domain=one.domain,
        merged_bytes=merged,
        saved_bytes=int(PAGE_SIZE * (one.merged_pages * part + one.zero_pages)),
        why=one.note or ("" if merged else skipped),
        merges=one.merges,
        separations=one.separations,
        name=one.name,
        uid=one.uid,
        volatile_bytes=one.volatile_pages * PAGE_SIZE,
    )


def _row(
    who: Identity,
    *,
    pid: int,
    engine: str,
    domain: str,
    merged_bytes: int,
    saved_bytes: int,
    why: str,
    merges: int | None = None,
    separations: int | None = None,
    name: str | None = None,
    uid: int | None = None,
    volatile_bytes: int | None = None,
) -> Row:
    uid = who.uid if uid is None else uid
    anonymous = accounts.anonymous_bytes(pid)
    if engine == "user":  # mappings of slabs do not count as anonymous memory
        anonymous += merged_bytes
    return Row(
        pid=pid,
        name=who.name if name is None else name,
        uid=uid,
        user=user_name(uid),
        engine=engine,
        domain=domain,
        guest=who.guest,
        unit=who.unit,
        cgroup=who.cgroup,
        memory_bytes=max(anonymous, merged_bytes),
        merged_bytes=merged_bytes,
        saved_bytes=saved_bytes,
        merges=merges,
        separations=separations,
        mappings=0,
        mappings_limit=0,
        why=why,
        volatile_bytes=volatile_bytes,
    )


def _why(found: ProcessKsm, stands: str) -> str:
    """Say why ksmd has merged nothing of a process, as far as its counters tell."""
    if stands:
        return stands
    if not found.rmap_items:
        return "ksmd has not looked at it yet"
    return "ksmd has found no page in it that equals another one so far"


def _part(shared: int, sharing: int) -> float:
    """Return the part of a mapping of a stable page that is saved: the first of each saves none."""
    return sharing / (shared + sharing) if shared + sharing else 0.0


def _looked_at(pid: int) -> tuple[int, float | None]:
    """Return the mappings of a process, and the seconds of processor time of its agent."""
    count = len(lines(read(f"{PROC}/{pid}/maps")))
    tasks = PROC / str(pid) / "task"
    for thread in threads(pid)[:THREADS]:
        try:
            found = stat(thread, tasks)
        except PagemergeError:
            continue
        if found.name == AGENT:
            return count, found.cpu_seconds
    return count, None
