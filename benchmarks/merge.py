"""How long merging takes, and how much processor time: our user engine beside kernel KSM.

Processes with memory of known contents, made ready before anybody may merge; then the time until
all that can be saved is saved (to 0.1%). Three scenes:

- clones: every process has the same pages in the same order;
- scattered: the same pages, in another random order in each, so that every page is a mapping of
  its own (vm.max_map_count is raised for this, where we may, and put back);
- unique70: 70% of each process is unique.

Three engines: the user engine (hub and agents, one core at most for the hub), ksmd flat out
(pages_to_scan=100000, sleep_millisecs=0), and ksmd at its defaults, which is given up after a
while. Processor time is the hub's and its agents', or ksmd's. Each process checks all its pages
afterwards. A table for people, then one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import hub, ksm, worker

from pagemerge.demo.dialog import Child, ask_all
from pagemerge.model import PAGE_SIZE

ENGINES = ("user", "flat-out", "defaults")
GOOD = 0.999
"""Part of the pages that must be saved."""
MOST_MAPPINGS = Path("/proc/sys/vm/max_map_count")


@dataclass(frozen=True, slots=True)
class Scene:
    """What is measured."""

    name: str
    processes: int
    pages: int
    """Of each process."""

    @property
    def savings(self) -> int:
        """Pages that merging can save."""
        each = worker.shared_pages(self.pages) if self.name == "unique70" else self.pages
        return (self.processes - 1) * each


@dataclass(frozen=True, slots=True)
class Result:
    """What one engine needed for one scene."""

    scene: str
    engine: str
    seconds: float
    cpu_seconds: float
    saved_bytes: int
    complete: bool
    """False: it was given up after ``seconds``."""
    wrong_pages: int


@contextlib.contextmanager
def workers(scene: Scene, engine: str, env: dict[str, str]) -> Iterator[list[Child]]:
    """Processes that hold a scene's memory."""
    argv = [sys.executable, worker.__file__, str(os.getpid())]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(Child(argv, env=env, patience=120)) for _ in range(scene.processes)
        ]
        for index, child in enumerate(started):
            child.question("fill", engine=engine, scene=scene.name, index=index, pages=scene.pages)
        for child in started:
            child.answer(300)
        yield started


def by_user_engine(scene: Scene, patience: float) -> Result:
    """Our own engine, move barrier; the hub is stopped until all is ready."""
    with hub.running(cpu_percent=100, looks=2) as own:
        own.hold()
        with workers(scene, "user", own.environment()) as children:
            pids = [child.pid for child in children]
            spent = own.cpu_seconds() + hub.agents_cpu_seconds(pids)
            began = time.monotonic()
            own.release()
            seconds, saved = until_merged(own, pids, scene.savings, began + patience)
            cpu = own.cpu_seconds() + hub.agents_cpu_seconds(pids) - spent
            return result(scene, "user", seconds - began, cpu, saved, children)


def until_merged(
    own: hub.Hub, pids: Sequence[int], pages: int, deadline: float
) -> tuple[float, int]:
    """When ``pages`` were saved (or the deadline), and how many were.

    The hub takes a moment to count: it is asked only when the kernel's own accounts, which cost
    nothing, say that most of it is done.
    """
    goal, before = GOOD * pages, anonymous_pages(pids)
    while before - anonymous_pages(pids) < 0.98 * pages and time.monotonic() < deadline:
        time.sleep(0.01)
    saved = own.status().pages_sharing
    while saved < goal and time.monotonic() < deadline:
        time.sleep(0.01)
        saved = own.status().pages_sharing
    return time.monotonic(), saved


def anonymous_pages(pids: Sequence[int]) -> int:
    """Pages of their own that processes have (RssAnon, proc_pid_status(5))."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        total += int(text.partition("RssAnon:")[2].split()[0]) * 1024 // PAGE_SIZE
    return total


def by_kernel(kernel: ksm.Ksm, scene: Scene, engine: str, patience: float) -> Result:
    """Ksmd, at one of its settings."""
    kernel.write("run", ksm.STOP)
    with workers(scene, "kernel", dict(os.environ)) as children:
        before, spent = kernel.sharing, kernel.cpu_seconds()
        goal = GOOD * scene.savings
        began = time.monotonic()
        kernel.start(**(ksm.FLAT_OUT if engine == "flat-out" else ksm.DEFAULTS))
        while (saved := kernel.sharing - before) < goal and time.monotonic() < began + patience:
            time.sleep(0.01)
        seconds, cpu = time.monotonic() - began, kernel.cpu_seconds() - spent
        kernel.write("run", ksm.STOP)
        done = result(scene, engine, seconds, cpu, saved, children)
    kernel.forget()
    return done


def result(
    scene: Scene, engine: str, seconds: float, cpu: float, saved: int, children: list[Child]
) -> Result:
    """A row; every process checks its pages."""
    wrong = sum(answer["wrong"] for answer in ask_all(children, "check"))
    return Result(
        scene=scene.name,
        engine=engine,
        seconds=round(seconds, 3),
        cpu_seconds=round(cpu, 3),
        saved_bytes=saved * PAGE_SIZE,
        complete=saved >= GOOD * scene.savings,
        wrong_pages=wrong,
    )


@contextlib.contextmanager
def mappings_for(scene: Scene) -> Iterator[None]:
    """Let a process have the mappings that a scene needs, while it lasts."""
    before = MOST_MAPPINGS.read_text().strip()
    needed = 4 * scene.pages
    if scene.name != "scattered" or needed <= int(before) or os.geteuid():
        yield
        return
    MOST_MAPPINGS.write_text(str(needed))
    try:
        yield
    finally:
        MOST_MAPPINGS.write_text(before)


def measure(args: argparse.Namespace) -> list[Result]:
    """Every scene with every engine."""
    found = []
    reason = ksm.lacks()
    if reason:
        print(f"kernel KSM is left out: {reason}", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        kernel = None if reason else stack.enter_context(ksm.borrowed())
        for name in args.scene:
            scene = Scene(name, args.processes, args.size * 2**20 // PAGE_SIZE // args.processes)
            for engine in args.only:
                with mappings_for(scene):
                    if engine == "user":
                        found.append(by_user_engine(scene, args.patience))
                    elif kernel:
                        found.append(by_kernel(kernel, scene, engine, args.patience))
                    else:
                        continue
                show(found[-1])
    return found


def show(row: Result) -> None:
    """One line of the table."""
    how_far = "" if row.complete else "   given up"
    wrong = f"   {row.wrong_pages} WRONG PAGES" if row.wrong_pages else ""
    print(
        f"{row.scene:<12}{row.engine:<12}{row.seconds:8.2f} s {row.cpu_seconds:8.2f} s processor "
        f"{row.saved_bytes / 1e6:8,.0f} MB saved{how_far}{wrong}",
        flush=True,
    )


def ratios(rows: list[Result]) -> dict[str, dict[str, float]]:
    """Of each scene: how many times faster than ksmd flat out, and at which part of its cost."""
    by_name = {(row.scene, row.engine): row for row in rows}
    found = {}
    for (scene, engine), flat in by_name.items():
        own = by_name.get((scene, "user"))
        if engine == "flat-out" and own and own.complete and flat.complete:
            speed, cost = flat.seconds / own.seconds, own.cpu_seconds / flat.cpu_seconds
            found[scene] = {"times_faster": round(speed, 2), "cpu_ratio": round(cost, 2)}
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="MiB, of all processes together")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--only", action="append", choices=ENGINES, help="engine, repeatable")
    parser.add_argument("--scene", action="append", choices=worker.SCENES, help="repeatable")
    parser.add_argument("--patience", type=float, default=60, help="seconds for each measurement")
    args = parser.parse_args()
    args.only, args.scene = args.only or ENGINES, args.scene or tuple(worker.SCENES)
    if args.size * 2**20 // PAGE_SIZE % (args.processes * worker.BLOCK):
        parser.error("each process needs a whole number of 2 MiB blocks")
    rows = measure(args)
    compared = ratios(rows)
    for scene, it in compared.items():
        print(
            f"{scene}: {it['times_faster']:.2f} times as fast as ksmd flat out, "
            f"with {it['cpu_ratio']:.0%} of its processor time"
        )
    figures = {
        "bytes": args.size * 2**20,
        "processes": args.processes,
        "cores": len(os.sched_getaffinity(0)),
        "results": [asdict(row) for row in rows],
        "compared": compared,
    }
    print(json.dumps(figures))
    return 1 if any(row.wrong_pages for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
