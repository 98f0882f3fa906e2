"""The figures of a moment as metrics of Prometheus.

Names follow Prometheus' rules (https://prometheus.io/docs/practices/naming/: base units, ``_total``
for counters), and those of KSM's counters follow the collector ``ksmd`` of node_exporter
(collector/ksmd_linux.go): ``pages_sharing``, ``full_scans_total``, ``sleep_seconds``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux.process import stat
from pagemerge.model import PAGE_SIZE
from pagemerge.watch.groups import MOST_GROUPS, Counts, Group, Label, gathered
from pagemerge.watch.model import KernelEngine, Moment, UserEngine
from pagemerge.watch.topics import topic_of

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

ENGINE, GROUP = ("engine",), ("engine", "kind", "name")

METRICS: dict[str, tuple[tuple[str, ...], str]] = {
    "engine_up": (
        ENGINE,
        "1 if the engine works (user: a hub answers; kernel: ksmd runs, or a governor drives it).",
    ),
    "saved_bytes": (ENGINE, "Memory that merging saves; all of it comes back if all is written."),
    "general_profit_bytes": (ENGINE, "saved_bytes less the memory that merging itself takes."),
    "pages_shared": (ENGINE, "Stable pages that are mapped."),
    "pages_sharing": (ENGINE, "Mappings of stable pages beyond the first of each."),
    "zero_pages": (ENGINE, "Pages of zeros that take no memory of their own."),
    "pages_unshared": (ENGINE, "Pages that were looked at and equal no other page."),
    "pages_volatile": (ENGINE, "Pages that change too fast to be merged."),
    "full_scans_total": (ENGINE, "Times that all mergeable memory was looked at."),
    "merges_total": (ENGINE, "Pages that were merged; a page counts each time (user engine)."),
    "separations_total": (ENGINE, "Merged pages that a program wrote, and that unshared so."),
    "page_size_bytes": ((), "Size of a page."),
    "cpu_seconds_total": (("part",), "Processor time of the hub and of ksmd."),
    "processes": (ENGINE, "Processes with mergeable memory."),
    "idle_processes": (ENGINE, "Processes with mergeable memory of which nothing is merged."),
    "mergeable_memory_bytes": (ENGINE, "Anonymous memory of the processes with mergeable memory."),
    "hub_lost_clients": ((), "Clients that still run although their hub answers no more."),
    "hub_store_bytes": ((), "Memory of the hub's stable pages."),
    "hub_metadata_bytes": ((), "Memory of the hub's records."),
    "ksmd_run": ((), "KSM's knob run: 0 stopped, 1 runs, 2 stopped and everything separated."),
    "ksmd_pages_to_scan": ((), "Pages that ksmd looks at before it sleeps."),
    "ksmd_sleep_seconds": ((), "Time that ksmd sleeps between two batches."),
    "governor_up": ((), "1 if a governor drives ksmd."),
    "decisions_total": (("topic",), "Decisions of the governor, by the topic of their reason."),
    "group_saved_bytes": (GROUP, "Part of saved_bytes that belongs to a guest, unit or process."),
    "group_merged_bytes": (GROUP, "Memory that maps stable pages, each counted in full."),
    "group_memory_bytes": (GROUP, "Anonymous memory of the group."),
    "group_processes": (GROUP, "Processes of the group."),
    "group_separations_total": (
        GROUP,
        "Merged pages of the group that were written (user engine).",
    ),
    "group_mappings_ratio": (GROUP, "Largest share of vm.max_map_count that a process uses."),
    "memory_bytes": ((), "Memory of the host, or of the memory cgroup that limits pagemerge."),
    "memory_available_bytes": ((), "Memory that is available without swapping."),
    "memory_pressure_ratio": (
        (),
        "Share of the last 10 s in which a task waited for memory (PSI).",
    ),
    "moment_timestamp_seconds": ((), "When these figures were read."),
}
"""Name without the prefix -> labels, and the help text. A figure that is unknown has no sample."""

PREFIX = "pagemerge_"


class Exporter:
    """Turns moments into the text that Prometheus reads. It may be called from any thread."""

    def __init__(
        self,
        read: Callable[[], Moment],
        decided: Callable[[], Mapping[str, int]] | None = None,
        most_groups: int = MOST_GROUPS,
    ) -> None:
        """``read`` returns the figures of now. ``decided`` returns the number of decisions on each
        topic; without it, the decisions of the moments are counted.

        Raises ``Unsupported`` if prometheus-client is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry
        except ImportError:
            told = "metrics need prometheus-client: pip install 'pagemerge[metrics]'"
            raise Unsupported(told) from None
        self._read, self._decided, self._most_groups = read, decided, most_groups
        self._counts, self._clients = Counts(), Clients()
        self._topics: dict[str, int] = {}
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Read the figures of now, and return them in the text format."""
        from prometheus_client import generate_latest

        with self._lock:
            return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Return all metrics that have samples; prometheus-client calls this."""
        moment = self._read()
        groups = gathered(moment.rows, self._most_groups)
        self._counts.note(moment, groups)
        self._clients.note(moment)
        samples = Samples()
        _host(samples, moment)
        _rows(samples, moment)
        for label, group in groups.items():
            _group(samples, label, group)
        for label, count in self._counts.of.items():
            where = (label.engine, label.kind, label.name)
            samples.add("group_separations_total", count.separations, *where)
        samples.add("engine_up", moment.user is not None, "user")
        if moment.user is not None:
            _user(samples, moment.user)
            samples.add("merges_total", self._counts.all.merges, "user")
            samples.add("separations_total", self._counts.all.separations, "user")
        if moment.kernel is not None:
            _kernel(samples, moment.kernel)
        samples.add("hub_lost_clients", self._clients.lost)
        for topic, decisions in self._decisions(moment).items():
            samples.add("decisions_total", decisions, topic)
        return samples.families()

    def _decisions(self, moment: Moment) -> Mapping[str, int]:
        if self._decided is not None:
            return self._decided()
        for it in moment.decisions:
            topic = topic_of(it.reason)
            self._topics[topic] = self._topics.get(topic, 0) + 1
        return self._topics


class Clients:
    """The clients of a hub, and whether they outlive it."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        """Pid -> start time of the clients of the last hub that answered."""
        self.lost = 0
        """Clients that run although no hub answers."""

    def note(self, moment: Moment) -> None:
        """Learn the clients of a hub that answers; else count those that still run."""
        if moment.user is not None:
            pids = [row.pid for row in moment.rows if row.engine == "user"]
            self._known = {pid: start for pid in pids if (start := _start_time(pid)) is not None}
            self.lost = 0
            return
        self._known = {
            pid: start for pid, start in self._known.items() if _start_time(pid) == start
        }
        self.lost = len(self._known)


@dataclass(slots=True)
class Samples:
    """Values by metric and labels; in the order of ``METRICS`` at the end."""

    _values: dict[str, list[tuple[tuple[str, ...], float]]] = field(default_factory=dict)

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Add a value; None: it is unknown, and there is no sample."""
        if value is not None:
            self._values.setdefault(name, []).append((labels, float(value)))

    def families(self) -> Iterator[Metric]:
        """Return the metrics that have values."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, (labels, told) in METRICS.items():
            if name not in self._values:
                continue
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(PREFIX + name, told, labels=labels)
            for which, value in self._values[name]:
                family.add_metric(which, value)
            yield family


def _host(samples: Samples, moment: Moment) -> None:
    host = moment.host
    samples.add("page_size_bytes", PAGE_SIZE)
    samples.add("memory_bytes", host.total_bytes)
    samples.add("memory_available_bytes", host.available_bytes)
    pressure = host.pressure_percent
    samples.add("memory_pressure_ratio", None if pressure is None else pressure / 100)
    samples.add("moment_timestamp_seconds", moment.time)


def _rows(samples: Samples, moment: Moment) -> None:
    """Add what both engines have in common, and comes from the rows."""
    for engine, present in (("user", moment.user), ("kernel", moment.kernel)):
        if present is None:
            continue
        rows = [row for row in moment.rows if row.engine == engine]
        samples.add("processes", len(rows), engine)
        samples.add("idle_processes", sum(not row.merged_bytes for row in rows), engine)
        samples.add("mergeable_memory_bytes", sum(row.memory_bytes for row in rows), engine)


def _group(samples: Samples, label: Label, group: Group) -> None:
    where = (label.engine, label.kind, label.name)
    samples.add("group_saved_bytes", group.saved_bytes, *where)
    samples.add("group_merged_bytes", group.merged_bytes, *where)
    samples.add("group_memory_bytes", group.memory_bytes, *where)
    samples.add("group_processes", group.processes, *where)
    samples.add("group_mappings_ratio", group.mappings_ratio, *where)


def _counters(samples: Samples, engine: UserEngine | KernelEngine, name: str) -> None:
    samples.add("saved_bytes", engine.saved_bytes, name)
    samples.add("general_profit_bytes", engine.profit_bytes, name)
    for counter in ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"):
        samples.add(counter, getattr(engine, counter), name)
    samples.add("zero_pages", engine.zero_pages, name)
    samples.add("full_scans_total", engine.full_scans, name)


def _user(samples: Samples, hub: UserEngine) -> None:
    _counters(samples, hub, "user")
    samples.add("cpu_seconds_total", hub.cpu_seconds, "hub")
    samples.add("hub_store_bytes", hub.store_bytes)
    samples.add("hub_metadata_bytes", hub.metadata_bytes)


def _kernel(samples: Samples, ksm: KernelEngine) -> None:
    _counters(samples, ksm, "kernel")
    is_driven = ksm.governor_pid is not None
    samples.add("engine_up", is_driven or ksm.run == 1, "kernel")
    samples.add("governor_up", is_driven)
    samples.add("separations_total", ksm.separations, "kernel")
    samples.add("cpu_seconds_total", ksm.cpu_seconds, "ksmd")
    samples.add("ksmd_run", ksm.run)
    samples.add("ksmd_pages_to_scan", ksm.pages_to_scan)
    sleep = ksm.sleep_millisecs
    samples.add("ksmd_sleep_seconds", None if sleep is None else sleep / 1000)


def _start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks; None if it has ended."""
    try:
        found = stat(pid)
    except (OSError, PagemergeError):
        return None
    return None if found.has_ended else found.start_time
