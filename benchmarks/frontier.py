"""How much memory merging saves for how much processor time: settings of both engines.

Eight processes fill their memory. Half of it is the same in all, and the other half is unique:

- static: nothing changes any more;
- changing: two fifths of the memory stay (half of them the same in all); all processes replace
  three tenths by other data that is the same in all, every few seconds; each rewrites a fifth all
  the time (lab/changing.py).

Settings: ksmd at its defaults (100 pages, 20 ms), with 1,000 or 5,000 pages every 20 ms, flat out
(100,000 pages, no sleep), with the kernel's scan-time advisor, and driven by ksmtuned; our
governor; and our hub, at its defaults, with other limits (``cpu_percent``), and thrifty: without
huge pages, with pauses of up to 10 s, and so with a limit of 1%. The engine runs before the
programs start. From the moment on at which all memory is filled, four times a second:

- saved: the memory of the programs less what their memory cgroup takes: anonymous and shared
  memory, page tables, and the hub with its store; not what the kernel keeps for ksmd, 64 bytes for
  each page that it has looked at;
- processor time: of ksmd and the governor, or of the hub and its agents, since the filling began.
  ksmtuned's own counts as nothing.

``GB s`` are gigabytes saved, times the seconds for which they stay saved. Each setting is compared
with ksmd at its defaults at the end, and each of ours at equal processor time: from the moment on
at which it has cost no more than ksmd. ksmd at its defaults saves nothing before its second scan,
so that ratios are infinite until then; they fall while it catches up. All processes check their
memory in the end.

A table for people, a line of JSON, and with ``--into`` the JSON and a picture.
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
from typing import Any

from lab import changing
from lab.equal_cost import BASE, GOALS, Point, beside, equal, over_time, until
from lab.frontier_picture import drawn
from lab.frontier_table import show
from lab.mergers import MERGERS, Merger
from lab.others import Others
from lab.scene import FILLING, fill
from lab.trace import EVERY, Sample, anonymous_bytes
from tests.support import ksm
from tests.support.cgroup import Cgroup, limited
from tests.support.ending import terminable

from pagemerge.demo.dialog import Child, ask_all
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux.accounts import available_bytes
from pagemerge.model import PAGE_SIZE

WORKLOADS = tuple(GOALS)
OURS = ("governor", "hub")
"""What the names of our settings begin with."""
FEW = 0.2
"""Processors that other programs may keep busy while ``--quiet`` waits no more."""
PAGE_TABLES = 1 / 512
"""What page tables add to memory."""
ROOM = 1.5
"""Available memory that is needed, in sizes of the workload."""


@dataclass(frozen=True, slots=True)
class Result:
    """One setting on one workload."""

    workload: str
    setting: str
    saved_byte_seconds: float
    cpu_seconds: float
    filling_seconds: float
    """Until all memory was filled; the processor time of it counts."""
    saved_bytes: int
    """At the end."""
    checked: int
    wrong_pages: int
    late_seconds: float
    """How late the latest change was."""
    others_cores: float
    """Processors that other programs of the host kept busy meanwhile."""
    notes: list[str]
    curve: list[tuple[float, int, float]]
    """Seconds, bytes saved, and processor seconds."""


@contextlib.contextmanager
def programs(group: Cgroup, merger: Merger, processes: int, pages: int) -> Iterator[list[Child]]:
    """Processes of the group that have allocated their memory."""
    argv = [*group.prefix(), sys.executable, "-m", changing.__name__, str(os.getpid())]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(Child(argv, env=merger.env)) for _ in range(processes)]
        for index, child in enumerate(started):
            child.ask("allocate", engine=merger.engine, index=index, pages=pages)
        yield started


def measure(
    workload: str, setting: str, kernel: ksm.Ksm | None, args: argparse.Namespace
) -> Result:
    """One setting on one workload. Raises ``PagemergeError``."""
    pages = args.size * 2**20 // PAGE_SIZE // args.processes
    size = args.processes * pages * PAGE_SIZE
    others = Others(kernel)
    others.wait(FEW, args.quiet)
    with (
        limited(None) as group,
        MERGERS[setting](group, kernel, size) as merger,
        programs(group, merger, args.processes, pages) as children,
    ):
        pids = [child.pid for child in children]
        full = group.resident_bytes() + int(size * (1 + PAGE_TABLES))
        spent, filling = merger.cpu_seconds(pids), time.monotonic()
        others.cores()
        fill(children)
        began = time.monotonic()
        if workload == "changing":
            ask_all(children, "change", begin=began, every=args.every)
        curve = list(watch(group, merger, pids, (began, args.seconds), full, spent))
        busy = others.cores()
        late = max(it["late"] for it in ask_all(children, "rest"))
        for child in children:
            child.question("check")
        wrong = [child.answer(FILLING)["wrong"] for child in children]
    return Result(
        workload=workload,
        setting=setting,
        saved_byte_seconds=round(until(curve, args.seconds).byte_seconds),
        cpu_seconds=round(until(curve, args.seconds).cpu_seconds, 2),
        filling_seconds=round(began - filling, 2),
        saved_bytes=curve[-1].saved_bytes,
        checked=len(wrong),
        wrong_pages=sum(wrong),
        late_seconds=late,
        others_cores=round(busy, 2),
        notes=merger.notes,
        curve=[(it.seconds, it.saved_bytes, it.cpu_seconds) for it in curve],
    )


def watch(
    group: Cgroup,
    merger: Merger,
    pids: Sequence[int],
    time_of: tuple[float, float],
    full: int,
    spent: float,
) -> Iterator[Point]:
    """Sample until the time is over. ``time_of``: its beginning, and its length, in seconds;
    ``full``: bytes that the group would take if nothing were merged; ``spent``: processor seconds
    of before."""
    began, length = time_of
    due = began
    while True:
        time.sleep(max(due - time.monotonic(), 0.0))
        now = round(time.monotonic() - began, 3)
        used = group.resident_bytes()
        yield Point(now, full - used, round(merger.cpu_seconds(pids) - spent, 2))
        if now >= length:
            return
        merger.observe(sample(now, group, pids))
        due = max(due + EVERY, time.monotonic() + EVERY / 2)


def sample(now: float, group: Cgroup, pids: Sequence[int]) -> Sample:
    """What a driver of ksmd that decides in this process looks at."""
    return Sample(
        seconds=now,
        phase="",
        processes=len(pids),
        resident_bytes=sum(anonymous_bytes(pid) for pid in pids),
        zero_bytes=0,
        used_bytes=group.anonymous_bytes(),
        ksm={},
        ksmd_cpu_seconds=0.0,
        policy_cpu_seconds=0.0,
        available_bytes=available_bytes(),
        pressure=None,
    )


def compared(told: dict[str, Any]) -> dict[str, Any]:
    """Each workload: every setting beside ksmd at its defaults, and the best of ours that costs no
    more."""
    found: dict[str, Any] = {}
    savable = savable_bytes(told)
    for workload in WORKLOADS:
        rows = [it for it in told["results"] if it["workload"] == workload]
        curves: dict[str, Sequence[Point]] = {
            it["setting"]: [Point(*one) for one in it["curve"]] for it in rows
        }
        if BASE not in curves:
            continue
        sums = {name: until(curve, told["seconds"]) for name, curve in curves.items()}
        goal, possible = GOALS[workload], savable * told["seconds"]
        ours = [it for it in sums if it.startswith(OURS)]
        equals = {it: equal(curves[it], curves[BASE], goal, savable) for it in ours}
        found[workload] = {
            "goal": goal,
            "possible_gb_seconds": round(possible / 1e9, 3),
            "settings": {it: beside(one, sums[BASE], possible) for it, one in sums.items()},
            "equal_cost": equals,
            "over_time": over_time(curves, BASE, ours, savable, told["seconds"]),
        }
    return found


def savable_bytes(told: dict[str, Any]) -> int:
    """What merging can save: all copies but one of what all processes have."""
    each = int(changing.SHARED * (told["bytes"] // told["processes"]))
    return int(told["processes"] - 1) * each


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all that is asked for. Raises ``PagemergeError``."""
    have, need = available_bytes(), int(ROOM * args.size * 2**20)
    if have is not None and have < need:
        raise Unsupported(
            f"{need / 1e9:.1f} GB of memory are needed and {have / 1e9:.1f} GB available: "
            "give a smaller --size"
        )
    rows = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminable())
        with limited(None):
            pass  # where there are no memory cgroups, that is said at once
        if reason := ksm.lacks():
            print(f"kernel KSM is left out: {reason}", file=sys.stderr)
        kernel = None if reason else stack.enter_context(ksm.borrowed())
        for workload in args.workload:
            for setting in args.only:
                try:
                    rows.append(measure(workload, setting, kernel, args))
                except Unsupported as lack:
                    print(f"{setting} is left out: {lack}", file=sys.stderr)
                    continue
                it = rows[-1]
                print(
                    f"{workload}, {setting}: {it.saved_byte_seconds / 1e9:.2f} GB s for "
                    f"{it.cpu_seconds:.2f} s; others {it.others_cores:.2f} cores",
                    file=sys.stderr,
                    flush=True,
                )
    return {
        "bytes": args.size * 2**20,
        "processes": args.processes,
        "seconds": args.seconds,
        "every_seconds": args.every,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": os.uname().release,
        "load": os.getloadavg()[1],
        "results": [asdict(it) for it in rows],
    }


def together(files: Sequence[Path]) -> dict[str, Any]:
    """Earlier runs as one; what was measured twice counts as the later file has it.

    Raises ``PagemergeError`` where their sizes or times differ.
    """
    runs = [json.loads(it.read_text()) for it in files]
    for name in ("bytes", "processes", "seconds", "every_seconds"):
        if len({it[name] for it in runs}) > 1:
            raise PagemergeError(f"the runs differ in {name}: draw each by itself")
    rows = {(it["workload"], it["setting"]): it for one in runs for it in one["results"]}
    order = list(MERGERS)
    told = sorted(rows, key=lambda it: (WORKLOADS.index(it[0]), order.index(it[1])))
    return {**runs[-1], "results": [rows[it] for it in told]}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="MiB, of all processes together")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each setting (default 30)")
    parser.add_argument(
        "--every", type=float, default=5.0, help="seconds between two changes (default 5)"
    )
    parser.add_argument(
        "--quiet",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait so long at most until other programs rest, before each setting (default: 0)",
    )
    parser.add_argument("--only", action="append", choices=MERGERS, help="setting, repeatable")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="repeatable")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="where JSON and picture go")
    parser.add_argument(
        "--from",
        dest="files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="draw these runs, as one, each file as --into writes it",
    )
    args = parser.parse_args()
    args.only, args.workload = args.only or list(MERGERS), args.workload or list(WORKLOADS)
    if args.processes < 2 or args.size * 2**20 // PAGE_SIZE // args.processes < changing.PART:
        parser.error("give 2 --processes or more, and each at least 1 MiB (--size)")
    if args.every <= 0 or args.seconds < 1:
        parser.error("give 1 or more --seconds, and more than 0 --every")
    return args


def main() -> int:
    """Measure or read, print, and draw."""
    args = arguments()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    try:
        told = together(args.files) if args.files else run(args)
    except PagemergeError as error:
        print(f"frontier: {error}", file=sys.stderr)
        return error.exit_status
    told["compared"] = compared(told)
    show(told)
    print(json.dumps(told))
    if args.into:
        (args.into / "frontier.json").write_text(json.dumps(told) + "\n")
        (args.into / "frontier.svg").write_text(drawn(told))
    right = all(
        it["checked"] == told["processes"] and not it["wrong_pages"] for it in told["results"]
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
