"""What merging costs once everything is merged, and little or nothing changes, in processor time.

The user engine (hub at its default pauses, and agents) beside ksmd at the setting that merges as
fast: flat out, since none is faster. Scenes as in merge.py; unique70 is the harder one, because
what is unique has to be looked at again and again: in the long run every 64th cycle of 2 s. So
it is left alone until it has got there, and measured for longer than that.

Three more are of the user engine alone. ``guests``: QEMU guests without KVM, whose kernels tick.
``rewriting``: processes as in clones, each of which goes on writing the same few of its merged
pages each second; ``roaming``: other pages each time. Beside the cost it is told how many pages
were merged and separated meanwhile, and how many are merged at the end: a hub that merges nothing
any more costs nothing. Exit status 77 where no guest can be booted, and guests are asked for. A
table for people, then one line of JSON.
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
from typing import Any

from lab import guest, hub
from lab.scene import (
    GOOD,
    Scene,
    fill,
    held_user_engine,
    until_merged,
    until_merged_by_kernel,
    workers,
)
from tests.support import ksm
from tests.support.ending import terminable

from pagemerge.demo.dialog import Child, ask_all
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.model import PAGE_SIZE

MERGING = 300.0
"""Seconds that merging may take."""

WRITERS = ("rewriting", "roaming")
GUESTS = "guests"
SCENES = ("clones", "unique70", *WRITERS, GUESTS)

GUEST = guest.Size(memory_mib=160, own_mib=4, zero_mib=32)
COMMON_BYTES = 16 << 20
"""Of files that all guests have."""


@dataclass(frozen=True, slots=True)
class Result:
    """Processor time of one engine while little or nothing changes."""

    scene: str
    engine: str
    seconds: float
    cpu_seconds: float
    cpu_seconds_per_minute: float
    core_percent: float
    hub_cpu_seconds: float | None = None
    """Of ``cpu_seconds``; the rest is the agents'. None for the kernel's engine, as all below."""
    merges: int | None = None
    """Pages merged while it was measured."""
    separations: int | None = None
    """Merged pages found written meanwhile."""
    saved_pages: int | None = None
    """Pages that merging saves at the end."""

    @classmethod
    def of(cls, scene: str, engine: str, seconds: float, cpu: float, **more: Any) -> Result:
        """``cpu`` seconds of processor time in ``seconds``."""
        share = cpu / seconds
        minute, percent = round(60 * share, 3), round(100 * share, 3)
        return cls(scene, engine, round(seconds, 1), round(cpu, 3), minute, percent, **more)


def measure(name: str, own: hub.Hub, pids: Sequence[int], seconds: float) -> Result:
    """What the user engine takes from now on."""
    before = own.status()
    spent, agents, began = own.cpu_seconds(), hub.agents_cpu_seconds(pids), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    spent, agents = own.cpu_seconds() - spent, hub.agents_cpu_seconds(pids) - agents
    after = own.status()
    merges, separations = (
        sum(getattr(it, which) for it in after.clients)
        - sum(getattr(it, which) for it in before.clients)
        for which in ("merges", "separations")
    )
    return Result.of(
        name,
        "user",
        took,
        spent + agents,
        hub_cpu_seconds=round(spent, 3),
        merges=merges,
        separations=separations,
        saved_pages=after.pages_sharing + after.zero_pages,
    )


def of_user_engine(name: str, scene: Scene, args: argparse.Namespace) -> Result:
    """Merge, wait until the hub has seen that nothing changes, and measure."""
    with held_user_engine(scene, looks=2) as (own, children):
        pids = [child.pid for child in children]
        own.release()
        saved = until_merged(own, pids, scene.savings, time.monotonic() + MERGING)
        enough(saved, scene)
        with writing(name, children, args.writes):
            time.sleep(args.settle)
            return measure(name, own, pids, args.seconds)


@contextlib.contextmanager
def writing(name: str, children: list[Child], pages: int) -> Iterator[None]:
    """Have processes write a few pages each second, if the scene says so; verify all at the end."""
    if name not in WRITERS:
        yield
        return
    ask_all(children, "rewrite", pages=pages, roaming=name == "roaming", every=1.0)
    yield
    ask_all(children, "rest")
    if wrong := sum(answer["wrong"] for answer in ask_all(children, "check")):
        raise PagemergeError(f"{wrong} pages are not what was written")


def of_guests(args: argparse.Namespace) -> Result:
    """Boot guests, wait until they have been quiet for a while, and measure."""
    command = [sys.executable, "-m", "pagemerge", "run", "--engine", "user", "--"]
    with (
        guest.image(COMMON_BYTES) as booted,
        hub.running() as own,
        contextlib.ExitStack() as stack,
    ):
        guests = []
        for _ in range(args.guests):
            one = guest.Guest(booted, GUEST, prefix=command, env=own.environment())
            guests.append(stack.enter_context(one))
        for one in guests:
            one.until_ready(guest.BOOTED * args.guests)
        time.sleep(args.settle)
        done = measure(GUESTS, own, [it.pid for it in guests], args.seconds)
        for one in guests:
            one.ask("check", patience=guest.BOOTED)
    return done


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


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="MiB, of all processes together")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--guests", type=int, default=3)
    parser.add_argument("--writes", type=int, default=4, help="pages a process writes each second")
    parser.add_argument("--scene", action="append", choices=SCENES, help="repeatable")
    parser.add_argument("--settle", type=float, default=240, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=300, help="to measure for")
    parser.add_argument("--user", action="store_true", help="measure the user engine only")
    args = parser.parse_args()
    scenes = args.scene or SCENES
    try:
        with terminable():
            rows = measure_all(scenes, args)
    except PagemergeError as error:
        print(f"idle: {error}", file=sys.stderr)
        return error.exit_status
    for row in rows:
        more = "" if row.merges is None else f"; {row.merges} merged, {row.separations} separated"
        print(
            f"{row.scene:<12}{row.engine:<12}{row.cpu_seconds_per_minute:8.2f} s of processor time "
            f"a minute: {row.core_percent:.2f}% of a core{more}"
        )
    print(json.dumps({"bytes": args.size * 2**20, "results": [asdict(row) for row in rows]}))
    return 0


def measure_all(scenes: Sequence[str], args: argparse.Namespace) -> list[Result]:
    """All that is asked for. Raises ``Unsupported`` at once if guests are and cannot be."""
    if GUESTS in scenes and (reason := guest.lacks()):
        raise Unsupported(reason)
    rows = []
    pages = args.size * 2**20 // PAGE_SIZE // args.processes
    with contextlib.ExitStack() as stack:
        kernel = None
        if not args.user and not {*scenes} <= {GUESTS, *WRITERS}:
            if reason := ksm.lacks():
                print(f"kernel KSM is left out: {reason}", file=sys.stderr)
            else:
                kernel = stack.enter_context(ksm.borrowed())
        for name in scenes:
            if name == GUESTS:
                rows.append(of_guests(args))
                continue
            scene = Scene("clones" if name in WRITERS else name, args.processes, pages)
            rows.append(of_user_engine(name, scene, args))
            if kernel and name not in WRITERS:
                rows.append(of_kernel(kernel, scene, 0.0, min(args.seconds, 20.0)))
    return rows


if __name__ == "__main__":
    sys.exit(main())
