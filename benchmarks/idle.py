"""What merging costs once everything is merged and nothing changes, in processor time.

The user engine (hub at its default pauses, and agents) beside ksmd at the setting that merges as
fast: flat out, since none is faster. Scenes as in merge.py; unique70 is the harder one, because
what is unique has to be looked at again and again: in the long run every 64th cycle of 2 s. So
it is left alone until it has got there, and measured for longer than that. A table for people, then
one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass

from lab import hub, ksm, worker
from lab.scene import (
    GOOD,
    Scene,
    fill,
    held_user_engine,
    until_merged,
    until_merged_by_kernel,
    workers,
)

from pagemerge.errors import PagemergeError
from pagemerge.model import PAGE_SIZE

MERGING = 300.0
"""Seconds that merging may take."""


@dataclass(frozen=True, slots=True)
class Result:
    """Processor time of one engine while nothing changes."""

    scene: str
    engine: str
    seconds: float
    cpu_seconds: float
    cpu_seconds_per_minute: float
    core_percent: float

    @classmethod
    def of(cls, scene: str, engine: str, seconds: float, cpu: float) -> Result:
        """``cpu`` seconds of processor time in ``seconds``."""
        share = cpu / seconds
        minute, percent = round(60 * share, 3), round(100 * share, 3)
        return cls(scene, engine, round(seconds, 1), round(cpu, 3), minute, percent)


def of_user_engine(scene: Scene, settle: float, seconds: float) -> Result:
    """Merge, wait until the hub has seen that nothing changes, and measure."""
    with held_user_engine(scene, looks=2) as (own, children):
        pids = [child.pid for child in children]
        own.release()
        saved = until_merged(own, pids, scene.savings, time.monotonic() + MERGING)
        enough(saved, scene)
        time.sleep(settle)
        spent, began = own.cpu_seconds() + hub.agents_cpu_seconds(pids), time.monotonic()
        time.sleep(seconds)
        cpu = own.cpu_seconds() + hub.agents_cpu_seconds(pids) - spent
        return Result.of(scene.name, "user", time.monotonic() - began, cpu)


def of_kernel(kernel: ksm.Ksm, scene: Scene, settle: float, seconds: float) -> Result:
    """The same for ksmd."""
    kernel.write("run", ksm.STOP)
    with workers(scene, "kernel", dict(os.environ)) as children:
        fill(children)
        before = kernel.sharing
        kernel.start(**ksm.FLAT_OUT)
        goal = before + scene.savings
        saved = until_merged_by_kernel(kernel, goal, time.monotonic() + MERGING)
        enough(saved - before, scene)
        time.sleep(settle)
        spent, began = kernel.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        done = Result.of(
            scene.name, "flat-out", time.monotonic() - began, kernel.cpu_seconds() - spent
        )
        kernel.write("run", ksm.STOP)
    kernel.forget()
    return done


def enough(saved: int, scene: Scene) -> None:
    """Raise unless everything was merged."""
    if saved < GOOD * scene.savings:
        raise PagemergeError(f"{saved} pages of {scene.savings} were merged in {MERGING:g} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="MiB, of all processes together")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--scene", action="append", choices=worker.SCENES, help="repeatable")
    parser.add_argument("--settle", type=float, default=240, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=240, help="to measure for")
    args = parser.parse_args()
    rows = []
    pages = args.size * 2**20 // PAGE_SIZE // args.processes
    with contextlib.ExitStack() as stack:
        reason = ksm.lacks()
        kernel = None if reason else stack.enter_context(ksm.borrowed())
        if reason:
            print(f"kernel KSM is left out: {reason}", file=sys.stderr)
        for name in args.scene or ("clones", "unique70"):
            scene = Scene(name, args.processes, pages)
            rows.append(of_user_engine(scene, args.settle, args.seconds))
            if kernel:
                rows.append(of_kernel(kernel, scene, 0.0, min(args.seconds, 20.0)))
    for row in rows:
        print(
            f"{row.scene:<12}{row.engine:<12}{row.cpu_seconds_per_minute:8.2f} s of processor time "
            f"a minute: {row.core_percent:.2f}% of a core"
        )
    print(json.dumps({"bytes": args.size * 2**20, "results": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
