"""How soon processes that live for 30 s are merged, and what that asks of those that stay.

Standing processes hold equal memory, which is merged, and are quiet. Then a new process comes every
few seconds. Half of its memory is equal to the standing ones', a quarter to that of the other new
processes, and a quarter is unique; it fills its memory as soon as it has allocated it, or, every
second one, some seconds later, when the hub has found nothing there for a while. Measured is the
time from the end of the filling until 90% of what merging can free of that memory is freed: the
kernel's page map tells how many pages are present there that are the process's own.

The hub runs at its defaults. Over the same time without and with newcomers it is told what hub and
agents of the standing processes cost, how many pages of the standing processes the hub has read,
and in how many cycles it looked at all clients. Every process checks its pages before it ends. A
table for people, a line of JSON, and with ``--into`` the JSON and a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from lab import hub, worker
from lab.others import Others
from lab.scene import Scene, fill, until_merged, workers
from lab.shortlived_picture import drawn
from tests.support.ending import terminable

from pagemerge import _core
from pagemerge.demo.dialog import Child, ask_all
from pagemerge.errors import PagemergeError
from pagemerge.model import PAGE_SIZE

ENOUGH = 0.9
"""Share of what merging can free of a process after which it counts as merged."""
GOAL = 3.0
"""Seconds."""
MERGING = 120.0
"""Seconds that merging the standing processes may take."""
FIRST = 1000
"""Number of the first new process, so that its unique pages are like no standing process's."""
TICK = 0.01


@dataclass(frozen=True, slots=True)
class Newcomer:
    """What became of a process that lives for a while."""

    number: int
    late: float
    """Seconds between allocating and filling its memory."""
    filling_seconds: float
    seconds: float | None
    """From filled to merged; None if it ended before."""
    agent_cpu_seconds: float
    wrong_pages: int


@dataclass(frozen=True, slots=True)
class Window:
    """What the hub did in a time without or with newcomers."""

    newcomers: int
    seconds: float
    hub_cpu_seconds: float
    agents_cpu_seconds: float
    """Of the standing processes."""
    pages_read: int
    """Of the standing processes, by looks."""
    full_scans: int
    others_cores: float
    """Processors that other programs kept busy; without newcomers, because starting them counts."""


def live(own: hub.Hub, number: int, late: float, args: argparse.Namespace) -> Newcomer:
    """Start a process, have it fill its memory, wait for the merge, and end it."""
    pages = args.size * 2**20 // PAGE_SIZE
    with Child([sys.executable, worker.__file__, str(os.getpid())], env=own.environment()) as child:
        index = FIRST + number
        base = child.ask("open", engine="user", scene="shortlived", index=index, pages=pages)[
            "base"
        ]
        time.sleep(late)
        began = time.monotonic()
        child.ask("fill")
        filled = time.monotonic()
        # The first one is the only one that has its quarter.
        can = pages // 2 if number == 0 else worker.shared_pages(pages, "shortlived")
        end = filled + args.life
        while own_pages(child.pid, base, pages) > pages - ENOUGH * can and time.monotonic() < end:
            time.sleep(TICK)
        took = time.monotonic() - filled
        time.sleep(max(end - time.monotonic(), 0))
        cpu = hub.agents_cpu_seconds([child.pid])
        wrong = child.ask("check")["wrong"]
    return Newcomer(
        number=number,
        late=late,
        filling_seconds=round(filled - began, 3),
        seconds=round(took, 3) if took < args.life else None,
        agent_cpu_seconds=round(cpu, 3),
        wrong_pages=wrong,
    )


def own_pages(pid: int, base: int, pages: int) -> int:
    """Return how many pages are present from an address on that are the process's own."""
    _, counts = _core.present_runs(pid, base, base + pages * PAGE_SIZE)
    return int(np.frombuffer(counts, np.uint64).sum())


class Watch:
    """Takes the figures of a window."""

    def __init__(self, own: hub.Hub, pids: Sequence[int]) -> None:
        self._own, self._pids = own, pids
        self._others = Others(None)
        self._read, self._scans = self._looked()
        self._spent = own.cpu_seconds(), hub.agents_cpu_seconds(pids)
        self._began = time.monotonic()

    def window(self, newcomers: int) -> Window:
        """Return the figures since the beginning."""
        spent = self._own.cpu_seconds(), hub.agents_cpu_seconds(self._pids)
        seconds, busy = time.monotonic() - self._began, self._others.cores()
        read, scans = self._looked()
        return Window(
            newcomers=newcomers,
            seconds=round(seconds, 1),
            hub_cpu_seconds=round(spent[0] - self._spent[0], 3),
            agents_cpu_seconds=round(spent[1] - self._spent[1], 3),
            pages_read=read - self._read,
            full_scans=scans - self._scans,
            others_cores=round(busy, 2),
        )

    def _looked(self) -> tuple[int, int]:
        """Return the pages of the standing processes that were read, and the full scans."""
        told = self._own.status()
        read = sum(it.pages_scanned for it in told.clients if it.pid in self._pids)
        return read, told.full_scans


def measure(args: argparse.Namespace) -> tuple[list[Window], list[Newcomer], int]:
    """Run it all; returns the windows, the newcomers, and wrong pages of the standing ones."""
    scene = Scene("standing", args.standing, args.size * 2**20 // PAGE_SIZE)
    with (
        hub.running() as own,
        workers(scene, "user", own.environment()) as standing,
        ThreadPoolExecutor(1024) as threads,
    ):
        pids = [child.pid for child in standing]
        fill(standing)
        saved = until_merged(own, pids, scene.savings, time.monotonic() + MERGING)
        if saved < ENOUGH * scene.savings:
            raise PagemergeError(f"{saved} pages of {scene.savings} were merged in {MERGING:g} s")
        time.sleep(args.settle)
        watch = Watch(own, pids)
        time.sleep(args.seconds)
        windows = [watch.window(0)]
        watch, came = Watch(own, pids), list[Future[Newcomer]]()
        # At any moment between two looks of the hub, which come at regular times.
        begins = np.arange(0, args.seconds, args.every)
        begins += np.random.default_rng(1).random(len(begins)) * args.every / 2
        began = time.monotonic()
        for number, begin in enumerate(begins.tolist()):
            time.sleep(max(began + begin - time.monotonic(), 0))
            late = args.late if number % 2 else 0.0
            came.append(threads.submit(live, own, number, late, args))
        time.sleep(max(began + args.seconds - time.monotonic(), 0))
        windows.append(watch.window(len(came)))
        newcomers = [it.result() for it in came]
        wrong = sum(answer["wrong"] for answer in ask_all(standing, "check"))
    return windows, newcomers, wrong


def kinds(newcomers: Sequence[Newcomer]) -> list[dict[str, Any]]:
    """Return how soon those that fill at once, and those that fill late, were merged."""
    found = []
    for late in sorted({it.late for it in newcomers}):
        mine = [it for it in newcomers if it.late == late]
        times = [it.seconds for it in mine if it.seconds is not None]
        found.append(
            {
                "late": late,
                "newcomers": len(mine),
                "merged": len(times),
                "within_goal": sum(it <= GOAL for it in times),
                "median_seconds": round(median(times), 2) if times else None,
                "worst_seconds": max(times) if times else None,
            }
        )
    return found


def show(told: dict[str, Any]) -> None:
    """The tables."""
    print(f"{'newcomers that fill':<26}{'number':>8}{'merged':>8}{'median':>10}{'worst':>10}")
    for it in told["kinds"]:
        when = f"{it['late']:g} s after allocating" if it["late"] else "at once"
        times = (it["median_seconds"], it["worst_seconds"])
        median_s, worst_s = ("-" if one is None else f"{one:.2f} s" for one in times)
        print(f"{when:<26}{it['newcomers']:>8}{it['merged']:>8}{median_s:>10}{worst_s:>10}")
    print(f"{'a minute':<26}{'hub':>10}{'agents':>10}{'pages read':>12}{'full scans':>12}")
    for it in told["windows"]:
        share = 60 / it["seconds"]
        hubs, agents = (it[who] * share for who in ("hub_cpu_seconds", "agents_cpu_seconds"))
        name = f"with {it['newcomers']} newcomers" if it["newcomers"] else "without newcomers"
        print(
            f"{name:<26}{hubs:8.2f} s{agents:8.2f} s{it['pages_read'] * share:12,.0f}"
            f"{it['full_scans'] * share:12.1f}"
        )
    quiet = told["windows"][0]
    print(f"Other programs kept {quiet['others_cores']:.2f} processors busy.")


def main() -> int:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--standing", type=int, default=8, metavar="N", help="standing processes")
    parser.add_argument("--size", type=int, default=128, help="MiB of each process (default: 128)")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two newcomers")
    parser.add_argument("--life", type=float, default=30.0, help="seconds that each lives, filled")
    parser.add_argument(
        "--late", type=float, default=6.0, help="seconds after which every second one fills"
    )
    parser.add_argument("--settle", type=float, default=20, help="seconds before measuring")
    parser.add_argument(
        "--seconds", type=float, default=40, help="of each window (default: 40, 10 newcomers)"
    )
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="where JSON and picture go")
    parser.add_argument("--from", dest="file", type=Path, metavar="FILE", help="draw this run")
    args = parser.parse_args()
    if args.life < args.late + 2 * args.every:
        parser.error("--life must be longer than --late and twice --every: newcomers share memory")
    if args.size % 8:
        parser.error("--size must be a multiple of 8")
    wrong = 0
    if args.file:
        told = json.loads(args.file.read_text())
    else:
        try:
            with terminable():
                windows, newcomers, wrong = measure(args)
        except PagemergeError as error:
            print(f"shortlived: {error}", file=sys.stderr)
            return error.exit_status
        wrong += sum(it.wrong_pages for it in newcomers)
        told = {
            "standing": args.standing,
            "bytes_each": args.size * 2**20,
            "every_seconds": args.every,
            "life_seconds": args.life,
            "cores": len(os.sched_getaffinity(0)),
            "kernel": os.uname().release,
            "wrong_pages": wrong,
            "kinds": kinds(newcomers),
            "windows": [asdict(it) for it in windows],
            "newcomers": [asdict(it) for it in newcomers],
        }
    show(told)
    if wrong:
        print(f"{wrong} WRONG PAGES")
    print(json.dumps(told))
    if args.into:
        args.into.mkdir(parents=True, exist_ok=True)
        (args.into / "shortlived.json").write_text(json.dumps(told, indent=1) + "\n")
        (args.into / "shortlived.svg").write_text(drawn(told))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
