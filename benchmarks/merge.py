"""How long merging takes, and how much processor time: our user engine beside kernel KSM.

Processes with memory of known contents, made ready before anybody may merge; then the time until
all that can be saved is saved (to 0.1%). Four scenes:

- clones: every process has the same pages in the same order;
- scattered: the same pages, in another random order in each, so that every page is a mapping of
  its own (vm.max_map_count is raised for this, where we may, and put back);
- gaps: every second page is the same in every process, the others are unique, so that every page
  that can be merged is a mapping of its own, too;
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
from dataclasses import asdict, dataclass

from lab import hub, worker
from lab.scene import (
    GOOD,
    Scene,
    fill,
    held_user_engine,
    mappings_for,
    until_merged,
    until_merged_by_kernel,
    workers,
)
from tests.support import ksm
from tests.support.ending import terminable

from pagemerge.demo.dialog import Child, ask_all
from pagemerge.model import PAGE_SIZE

ENGINES = ("user", "flat-out", "defaults")


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


def by_user_engine(scene: Scene, looks: int, patience: float) -> Result:
    """Our own engine, move barrier; the hub is stopped until all is ready."""
    with held_user_engine(scene, looks=looks) as (own, children):
        pids = [child.pid for child in children]
        spent = own.cpu_seconds() + hub.agents_cpu_seconds(pids)
        began = time.monotonic()
        own.release()
        saved = until_merged(own, pids, scene.savings, began + patience)
        seconds = time.monotonic() - began
        cpu = own.cpu_seconds() + hub.agents_cpu_seconds(pids) - spent
        return result(scene, "user", seconds, cpu, saved, children)


def by_kernel(kernel: ksm.Ksm, scene: Scene, engine: str, patience: float) -> Result:
    """Ksmd, at one of its settings."""
    kernel.write("run", ksm.STOP)
    with workers(scene, "kernel", dict(os.environ)) as children:
        fill(children)
        before, spent, began = kernel.sharing, kernel.cpu_seconds(), time.monotonic()
        kernel.start(**(ksm.FLAT_OUT if engine == "flat-out" else ksm.DEFAULTS))
        saved = until_merged_by_kernel(kernel, before + scene.savings, began + patience) - before
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


def measure(args: argparse.Namespace) -> list[Result]:
    """Every scene with every engine."""
    found = []
    reason = ksm.lacks()
    if reason:
        print(f"kernel KSM is left out: {reason}", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminable())
        kernel = None if reason else stack.enter_context(ksm.borrowed())
        for name in args.scene:
            scene = Scene(name, args.processes, args.size * 2**20 // PAGE_SIZE // args.processes)
            for engine in args.only:
                with mappings_for(scene):
                    if engine == "user":
                        found.append(by_user_engine(scene, args.looks, args.patience))
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
    parser.add_argument("--looks", type=int, default=2, help="a setting of the user engine's hub")
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
