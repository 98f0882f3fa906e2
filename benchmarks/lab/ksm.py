"""Kernel KSM, borrowed for a measurement and given back as it was.

Its state is global to the host: ``borrowed`` takes a lock, so that two measurements or tests do
not use it at once. Source: Documentation/admin-guide/mm/ksm.rst of Linux.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pagemerge.errors import Unsupported
from pagemerge.watch.memory import cpu_seconds

from .ending import terminable

ROOT = Path("/sys/kernel/mm/ksm")

FLAT_OUT = {"pages_to_scan": 100_000, "sleep_millisecs": 0}
DEFAULTS = {"pages_to_scan": 100, "sleep_millisecs": 20}

ADVISOR_DEFAULTS = {
    "advisor_max_cpu": 70,
    "advisor_min_pages_to_scan": 500,
    "advisor_max_pages_to_scan": 30_000,
    "advisor_target_scan_time": 200,
}

KNOBS = (
    "advisor_mode",  # first: pages_to_scan is refused while the advisor sets it
    *ADVISOR_DEFAULTS,
    "pages_to_scan",
    "sleep_millisecs",
    "max_page_sharing",
    "merge_across_nodes",
    "stable_node_chains_prune_millisecs",
    "use_zero_pages",
    "smart_scan",
)
FORGET, RUN, STOP = 2, 1, 0
"""What ``run`` takes: undo all merging, go on, keep what is merged."""

FORGETTING = 5.0
"""Seconds that two full scans may take when the benchmark's own processes have ended."""


class Ksm:
    """The knobs and counters; made by ``borrowed``."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.ksmd = _thread("ksmd")
        self.before = self.counters()
        """The counters before the measurement: others' pages are none of ours."""

    def read(self, name: str) -> str:
        """A knob's value; of a list of choices, the one in brackets."""
        text = (self.root / name).read_text().strip()
        return text.partition("[")[2].partition("]")[0] or text

    def write(self, name: str, value: object) -> None:
        """Set a knob, unless it has that value: some are refused while pages are shared."""
        if self.read(name) != str(value):
            (self.root / name).write_text(str(value))

    def start(self, **knobs: int) -> None:
        """Set knobs, and let ksmd go."""
        self.write("advisor_mode", "none")
        for name, value in knobs.items():
            self.write(name, value)
        self.write("run", RUN)

    def counters(self) -> dict[str, int]:
        """All counters, in pages; ``general_profit`` in bytes."""
        names = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "full_scans")
        return {name: int(self.read(name)) for name in names}

    def readings(self) -> dict[str, int | str]:
        """Every file that there is: knobs and counters, in the kernel's units."""
        found = {path.name: self.read(path.name) for path in sorted(self.root.iterdir())}
        return {name: int(text) if _is_number(text) else text for name, text in found.items()}

    @property
    def sharing(self) -> int:
        """Pages saved since the measurement began."""
        return int(self.read("pages_sharing")) - self.before["pages_sharing"]

    def forget(self) -> None:
        """Forget the records of processes that have ended, and stop. Others' pages stay merged.

        A stopped ksmd keeps them, and they cost the next scan time.
        """
        if self.before["pages_shared"]:
            scans, deadline = self.counters()["full_scans"], time.monotonic() + FORGETTING
            self.start(**FLAT_OUT)
            # It does not scan at all once the last mergeable process has ended.
            while self.counters()["full_scans"] < scans + 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        else:
            self.write("run", FORGET)
        self.write("run", STOP)

    def cpu_seconds(self) -> float:
        """Processor time of ksmd."""
        return cpu_seconds(self.ksmd)


@contextlib.contextmanager
def borrowed(root: Path = ROOT) -> Iterator[Ksm]:
    """Kernel KSM, stopped, for us alone; knobs are restored and our pages forgotten at the end.

    On SIGTERM as well. End the processes whose pages were merged inside. Raises ``Unsupported``
    where there is no KSM or it is not ours to set.
    """
    if reason := lacks(root):
        raise Unsupported(reason)
    with _locked(root), terminable():
        saved = {name: (root / name).read_text() for name in KNOBS if (root / name).exists()}
        ksm = Ksm(root)
        run = ksm.read("run")
        try:
            ksm.write("run", STOP)
            yield ksm
        finally:
            ksm.forget()
            ksm.write("advisor_mode", "none")
            for name, text in reversed(saved.items()):
                ksm.write(name, text.partition("[")[2].partition("]")[0] or text.strip())
            ksm.write("run", run)


def lacks(root: Path = ROOT) -> str | None:
    """Why kernel KSM cannot be measured here, or nothing."""
    if not (root / "run").exists():
        return "Linux was built without CONFIG_KSM"
    return None if os.access(root / "run", os.W_OK) else f"{root}/run is not writable: needs root"


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the folder of knobs itself: no file of ours that another user could be in the way of."""
    lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for who else uses kernel KSM ({root})", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _thread(name: str) -> int:
    """The pid of a kernel thread; 0 if it is not to be seen (a container)."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().strip() == name:
                return int(comm.parent.name)
    return 0
