"""Records what the governor sees and decides here: ``python -m tests.support.tracing [NAME...]``.

For ``tests/unit/ksmd/test_govern.py``, which plays the traces back. When a change of policy is
meant to change decisions, record them anew, and read what has changed before you commit it.
"""

from __future__ import annotations

import contextlib
import gzip
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from pagemerge.demo.dialog import Child
from tests.support import ksm
from tests.support.building import VICTIMS
from tests.support.hubs import ALONE

FOLDER = Path(__file__).parents[1] / "unit" / "ksmd" / "traces"
PAGES = 20_000
"""Of each process, shared and its own: some 80 MB."""

Start = Callable[[], Child]


def arrivals(start: Start) -> None:
    """Three processes come, one after the other, stay, and leave."""
    running = []
    for _ in "abc":
        one = start()
        one.ask("fill", seed=1, shared=PAGES, own=PAGES // 2)
        running.append(one)
        time.sleep(4)
    for one in running:
        one.close()
        time.sleep(1)


def change(start: Start) -> None:
    """Two processes stand still, are rewritten with the same, and again with what differs."""
    both = [start(), start()]
    for one in both:
        one.ask("fill", seed=1, shared=PAGES, own=PAGES // 2)
    for seeds in ((2, 2), (3, 4)):
        time.sleep(6)
        for one, seed in zip(both, seeds, strict=True):
            one.ask("rewrite", seed=seed, first=0, pages=PAGES)
    time.sleep(6)


def restless(start: Start) -> None:
    """One of two processes goes on writing what it has for itself."""
    both = [start(), start()]
    for one in both:
        one.ask("fill", seed=1, shared=PAGES, own=PAGES)
    ends = time.monotonic() + 12
    while time.monotonic() < ends:
        both[0].ask("rewrite", seed=-1, first=PAGES, pages=PAGES)
    time.sleep(6)


def poor(start: Start) -> None:
    """Much memory, of which next to nothing is the same, and a budget that is soon spent."""
    both = [start(), start()]
    for one in both:
        one.ask("fill", seed=1, shared=PAGES // 4, own=2 * PAGES)
    time.sleep(12)


SCENES = {it.__name__: it for it in (arrivals, change, restless, poor)}
SETTINGS = {"poor": "[kernel]\ncpu_percent = 2\nburst_seconds = 0.1\nprice_bytes = 1\n"}


@contextlib.contextmanager
def governor(config: str, trace: Path) -> Iterator[None]:
    """A governor that notes what it sees and decides."""
    settings = trace.with_suffix(".toml")
    settings.write_text(config + ALONE)
    argv = [sys.executable, "-m", "pagemerge", "daemon", "--engine", "kernel"]
    argv += ["--config", str(settings), "--trace", str(trace), "--verbose"]
    with subprocess.Popen(argv) as process:
        try:
            while not trace.exists() or not trace.stat().st_size:
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


def record(name: str) -> None:
    """Play one scene, and write its trace."""
    victim = [sys.executable, str(VICTIMS / "sharer.py"), "merge"]
    with tempfile.TemporaryDirectory() as folder, ksm.borrowed():
        trace = Path(folder) / "trace"
        with governor(SETTINGS.get(name, ""), trace), ExitStack() as running:
            SCENES[name](lambda: running.enter_context(Child(victim)))
        FOLDER.mkdir(exist_ok=True)
        packed = gzip.compress(trace.read_bytes(), mtime=0)
        (FOLDER / f"{name}.jsonl.gz").write_bytes(packed)


if __name__ == "__main__":
    for scene in sys.argv[1:] or SCENES:
        record(scene)
