"""Who drives ksmd: the kernel's own settings, ksmtuned's algorithm, or our governor.

Each policy is a context that begins with ksmd stopped and every knob at the kernel's default, and
leaves it stopped.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.hubs import ALONE
from tests.support.ksm import ADVISOR_DEFAULTS, DEFAULTS, FLAT_OUT, Ksm

from pagemerge.demo.dialog import end
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux.knobs import RUN, STOP, Knobs, Value

from . import ksmtuned
from .play import TENANTS
from .trace import Sample

OTHER_DEFAULTS = {"use_zero_pages": 0, "smart_scan": 1}
SETTLE = 3.0
"""Seconds that the governor gets to start, before the workload does."""
GUEST_HOST = 7 / 8
"""Memory of the host that ksmtuned is told of, in the tenants' memory."""
STEADY = 4 << 20
"""Bytes by which guests may grow between two samples and yet have loaded their memory."""
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Options:
    """What a policy may need to know of the run."""

    workload_bytes: int
    """Of all tenants."""
    hurry: float = 1.0
    """How many times faster than the full workload it is played."""
    config: Path | None = None
    """Of the governor."""
    folder: Path | None = None
    """For the governor's log, if it is wanted."""


@dataclass(slots=True)
class Driver:
    """A policy at work."""

    observe: Callable[[Sample], None] = lambda _: None
    """Is shown every sample."""
    cpu_seconds: Callable[[], float] = lambda: 0.0
    """Of the process that drives ksmd, from its start."""
    notes: list[str] = field(default_factory=list)
    """What a reader of its figures has to know."""


Policy = Callable[[Ksm, Options], AbstractContextManager[Driver]]


def settings(**knobs: int) -> Policy:
    """Ksmd at fixed settings."""

    @contextlib.contextmanager
    def policy(kernel: Ksm, options: Options) -> Iterator[Driver]:
        with _at_defaults(kernel):
            kernel.start(**knobs)
            yield Driver()

    return policy


@contextlib.contextmanager
def advisor(kernel: Ksm, options: Options) -> Iterator[Driver]:
    """The kernel's scan-time advisor (Linux 6.8), which sets pages_to_scan by itself."""
    if kernel.kernel.knobs().advisor_mode is None:
        raise Unsupported("this kernel's KSM has no advisor (Linux 6.8)")
    with _at_defaults(kernel):
        kernel.write("advisor_mode", "scan-time")
        kernel.write("run", RUN)
        yield Driver()


@contextlib.contextmanager
def by_ksmtuned(kernel: Ksm, options: Options) -> Iterator[Driver]:
    """ksmtuned, in this process: it costs nothing here, though the script does.

    It knows one kind of guest, QEMU, and one host. Here tenants are its guests, and the host is an
    eighth smaller than their memory: the overcommitted one that it was made for. That is its best
    chance: on a larger host it starts later, or never; on a smaller one the guests would not fit
    before they are merged. For the same reason it sleeps as on 16 GB or more, where so small a host
    would have it sleep ten times as long, and is told of each guest once that has loaded its
    memory.
    """
    with _at_defaults(kernel):
        driver = Driver()
        script = _Ksmtuned(kernel, options, driver.notes)
        driver.observe = script.observe
        yield driver
        driver.notes.append(script.as_published())


class _Ksmtuned:
    def __init__(self, kernel: Ksm, options: Options, notes: list[str]) -> None:
        self.kernel, self.notes = kernel, notes
        self.total = int(options.workload_bytes * GUEST_HOST)
        self.interval = ksmtuned.MONITOR_INTERVAL / options.hurry
        self.one_guest = options.workload_bytes // TENANTS
        self.setting, self.due = ksmtuned.Setting(), self.interval
        self.known = self.resident = 0
        notes.append(
            f"told that the host has {self.total / 1e9:.2f} GB, {GUEST_HOST:.1%} of its guests' "
            f"memory; sleeps {ksmtuned.SLEEP_MSEC} ms as on 16 GB, not "
            f"{ksmtuned.sleep_millisecs(self.total)} ms; its own processor time counts as 0"
        )
        self.started_here = False
        kernel.write("sleep_millisecs", ksmtuned.SLEEP_MSEC)

    def observe(self, sample: Sample) -> None:
        """Look when it is time, and when a guest has loaded its memory or gone."""
        steady = abs(sample.resident_bytes - self.resident) < STEADY
        self.resident = sample.resident_bytes
        news = steady and abs(sample.resident_bytes - self.known) > self.one_guest / 2
        if sample.seconds < self.due and not news:
            return
        self.known, self.due = sample.resident_bytes, sample.seconds + self.interval
        self._note_real_host(sample)
        free = max(self.total - sample.used_bytes, 0)
        memory = ksmtuned.Memory(self.total, free, sample.resident_bytes)
        self.setting = ksmtuned.adjust(self.setting, memory)
        if self.setting.run:
            self.kernel.write("pages_to_scan", self.setting.npages)
        self.kernel.write("run", RUN if self.setting.run else STOP)

    def _note_real_host(self, sample: Sample) -> None:
        """Would it start, as published, on the host that this is?"""
        total, free = _meminfo("MemTotal"), _meminfo("MemFree", "Buffers", "Cached")
        here = ksmtuned.Memory(total, free, sample.resident_bytes)
        self.started_here |= ksmtuned.adjust(ksmtuned.Setting(), here).run

    def as_published(self) -> str:
        """What it would have done with the memory that this host has."""
        did = "started ksmd" if self.started_here else "never started ksmd"
        total = _meminfo("MemTotal") / 1e9
        return f"as published, on this host of {total:.1f} GB, it would have {did}"


@contextlib.contextmanager
def governor(kernel: Ksm, options: Options) -> Iterator[Driver]:
    """``pagemerge daemon --engine kernel``: its processor time counts, from its start."""
    if reason := governor_lacks():
        raise Unsupported(reason)
    with (
        _at_defaults(kernel),
        tempfile.TemporaryDirectory(prefix="pagemerge-bench-") as temporary,
    ):
        folder = options.folder or Path(temporary)
        config = options.config or Path(temporary) / "config.toml"
        if options.config is None:
            config.write_text(ALONE)  # all else at its defaults
        found, log = kernel.kernel.knobs(), folder / "governor.log"
        with log.open("wb") as words:
            process = subprocess.Popen(
                [*_DAEMON, "--engine", "kernel", "--config", str(config), "--verbose"],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                env={**os.environ, "PAGEMERGE_SOCKET": str(Path(temporary) / "hub")},
                process_group=0,
            )
        spent = 0.0

        def cpu() -> float:
            nonlocal spent
            if process.poll() is not None:
                last = log.read_text(errors="replace").strip()[-2000:]
                raise PagemergeError(f"the governor ended, status {process.returncode}: {last}")
            spent = max(spent, family_cpu_seconds(process.pid))
            return spent

        try:
            time.sleep(SETTLE)
            yield (driver := Driver(cpu_seconds=cpu))
        finally:
            process.terminate()
            end(process)
        driver.notes += _left(kernel, found)


_DAEMON = (sys.executable, "-m", "pagemerge", "daemon")


def governor_lacks() -> str | None:
    """Why our governor cannot be measured, or nothing."""
    told = subprocess.run([*_DAEMON, "--help"], capture_output=True, text=True, check=False)
    return None if "--engine" in told.stdout else "this pagemerge's daemon has no --engine"


def family_cpu_seconds(pid: int) -> float:
    """Processor time of a process and all its children, those that have ended and were waited for.

    utime, stime, cutime and cstime of /proc/PID/stat, proc_pid_stat(5); 0 for one that has gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        lists = [it.read_text() for it in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return 0.0
    own = sum(int(it) for it in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return own + sum(family_cpu_seconds(int(it)) for text in lists for it in text.split())


def _left(kernel: Ksm, found: Knobs) -> list[str]:
    """Knobs that the governor has not put back."""
    before, after = asdict(found), asdict(kernel.kernel.knobs())
    return [
        f"WRONG: {name} was {before[name]}, and was left at {value}"
        for name, value in after.items()
        if before[name] != value
    ]


@contextlib.contextmanager
def _at_defaults(kernel: Ksm) -> Iterator[None]:
    """Every knob as the kernel starts with it; ksmd is stopped, and again at the end."""
    there = asdict(kernel.kernel.knobs())
    wanted: dict[str, Value] = {
        **ADVISOR_DEFAULTS,
        **DEFAULTS,
        **OTHER_DEFAULTS,
        "advisor_mode": "none",
    }
    known = {name: value for name, value in wanted.items() if there[name] is not None}
    kernel.kernel.write(run=STOP, **known)
    try:
        yield
    finally:
        kernel.write("run", STOP)


def _meminfo(*names: str) -> int:
    """The sum of some lines of /proc/meminfo, in bytes."""
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    return sum(int(line[1]) << 10 for line in lines if line[0].rstrip(":") in names)


POLICIES: dict[str, Policy] = {
    "defaults": settings(**DEFAULTS),
    "flat-out": settings(**FLAT_OUT),
    "advisor": advisor,
    "ksmtuned": by_ksmtuned,
    "governor": governor,
}
