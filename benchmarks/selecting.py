"""How much ksmd has to look at: all memory of some processes, or what the finder has chosen.

Processes of which 70% is unique, in three layouts:

- runs: 30% of each 2 MiB is the same in every process, in one run of 153 pages;
- clumps: the same pages in clumps of 1 to 63, elsewhere in every process;
- scattered: single pages strewn over the memory, in another order in every process.

Each is merged twice by ksmd flat out (smart_scan on, as Linux has it): with every process opted in
as a whole (PR_SET_MEMORY_MERGE), and with only the ranges marked that ``--select`` would choose.
Reported are what was saved after some full scans, the pages that ksmd had looked at when 99% of
that was saved (pages_scanned), the pages it has records of (ksm_rmap_items, 64 bytes each), its
processor time, and what choosing took. Every process checks all its pages afterwards. A table for
people, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import marker, worker
from lab.scene import Scene, fill, workers
from tests.support import ksm
from tests.support.ending import terminable

from pagemerge.demo.dialog import Child, ask_all
from pagemerge.errors import PagemergeError
from pagemerge.find import process
from pagemerge.ksmd.selecting import select
from pagemerge.model import PAGE_SIZE

SCANS = 4
"""Full scans after which ksmd has merged what it ever will: two find, smart_scan skips some."""
MOST = 0.99
"""Part of the saving at which the pages looked at are counted."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one way of marking came to."""

    layout: str
    marked: str
    """whole | select."""
    saved_bytes: int
    pages_scanned: int
    """Until ``MOST`` of the saving."""
    rmap_items: int
    general_profit_bytes: int
    ksmd_cpu_seconds: float
    """For all the scans."""
    expected_bytes: int
    """What choosing had said would be saved; 0 where nothing was chosen."""
    choosing_seconds: float
    choosing_cpu_seconds: float
    ranges: int
    mappings: int
    """VMAs that marking has added, by /proc/PID/maps."""
    wrong_pages: int


@dataclass(slots=True)
class Marking:
    """What was marked."""

    ranges: int = 0
    expected: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def measure(kernel: ksm.Ksm, scene: Scene, how: str, patience: float) -> Result:
    """Mark in one way, have ksmd scan, and look."""
    kernel.write("run", ksm.STOP)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with workers(scene, "none", env, ("-m", marker.__name__)) as children:
        fill(children)
        before = sum(mappings(child) for child in children)
        marking = mark_chosen(children) if how == "select" else mark_all(children)
        added = sum(mappings(child) for child in children) - before
        spent = kernel.cpu_seconds()
        trace = scan(kernel, time.monotonic() + patience)
        spent = kernel.cpu_seconds() - spent
        saved = trace[-1][1]
        done = Result(
            layout=scene.name,
            marked=how,
            saved_bytes=saved * PAGE_SIZE,
            pages_scanned=next(looks for looks, then in trace if then >= MOST * saved),
            rmap_items=sum(stat(child, "ksm_rmap_items") for child in children),
            general_profit_bytes=sum(stat(child, "ksm_process_profit") for child in children),
            ksmd_cpu_seconds=round(spent, 2),
            expected_bytes=int(marking.expected * PAGE_SIZE),
            choosing_seconds=round(marking.seconds, 3),
            choosing_cpu_seconds=round(marking.cpu_seconds, 3),
            ranges=marking.ranges,
            mappings=added,
            wrong_pages=sum(answer["wrong"] for answer in ask_all(children, "check")),
        )
    kernel.forget()
    return done


def mark_all(children: list[Child]) -> Marking:
    """Opt every process in."""
    ask_all(children, "mark_all")
    return Marking()


def mark_chosen(children: list[Child]) -> Marking:
    """Look, choose, and have every process mark what was chosen."""
    chosen_from = process.named(str(child.pid) for child in children)
    began, spent = time.monotonic(), time.process_time()
    chosen = select(chosen_from)
    marking = Marking(
        sum(len(one.start) for one in chosen),
        sum(one.gain for one in chosen),
        time.monotonic() - began,
        time.process_time() - spent,
    )
    for child, one in zip(children, chosen, strict=True):
        child.ask("mark", ranges=list(zip(one.start.tolist(), one.end.tolist(), strict=True)))
    return marking


def scan(kernel: ksm.Ksm, deadline: float) -> list[tuple[int, int]]:
    """Let ksmd scan ``SCANS`` times: pages looked at and pages saved, again and again."""
    first, before, sharing = kernel.full_scans, looks(kernel), kernel.sharing
    kernel.start(**ksm.FLAT_OUT, smart_scan=1)
    trace = []
    while True:
        over = kernel.full_scans >= first + SCANS
        trace.append((looks(kernel) - before, kernel.sharing - sharing))
        if over:
            kernel.write("run", ksm.STOP)
            return trace
        if time.monotonic() > deadline:
            raise PagemergeError("ksmd did not scan everything in time: is the host busy?")
        time.sleep(0.002)


def looks(kernel: ksm.Ksm) -> int:
    """Pages that ksmd has looked at since the host started."""
    return kernel.counters().pages_scanned or 0


def stat(child: Child, name: str) -> int:
    """A field of ksm_stat (proc_pid_ksm_stat(5)); Linux 6.1."""
    text = Path(f"/proc/{child.pid}/ksm_stat").read_text()
    return int(text.partition(f"{name} ")[2].split()[0])


def mappings(child: Child) -> int:
    """VMAs of a process."""
    return len(Path(f"/proc/{child.pid}/maps").read_bytes().splitlines())


def compared(rows: list[Result]) -> dict[str, dict[str, float]]:
    """Of each layout: the saving that --select keeps, and its part of the pages looked at."""
    by_name = {(row.layout, row.marked): row for row in rows}
    found = {}
    for (layout, how), whole in by_name.items():
        chosen = by_name.get((layout, "select"))
        if how == "whole" and chosen:
            found[layout] = {
                "saving_kept": round(chosen.saved_bytes / whole.saved_bytes, 4),
                "pages_scanned_ratio": round(chosen.pages_scanned / whole.pages_scanned, 4),
                "rmap_items_ratio": round(chosen.rmap_items / whole.rmap_items, 4),
            }
    return found


def show(row: Result) -> None:
    """One line of the table."""
    wrong = f"   {row.wrong_pages} WRONG PAGES" if row.wrong_pages else ""
    print(
        f"{row.layout:<11}{row.marked:<8}{row.saved_bytes / 1e6:8,.1f} MB saved, "
        f"{row.pages_scanned:>9,} pages scanned, {row.rmap_items:>8,} records, "
        f"ksmd {row.ksmd_cpu_seconds:5.2f} s, choosing {row.choosing_cpu_seconds:5.2f} s, "
        f"{row.ranges:>6,} ranges, {row.mappings:>6,} new mappings{wrong}",
        flush=True,
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="MiB, of all processes together")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--layout", action="append", choices=marker.LAYOUTS, help="repeatable")
    parser.add_argument("--patience", type=float, default=120, help="seconds for each measurement")
    args = parser.parse_args()
    if args.size * 2**20 // PAGE_SIZE % (args.processes * worker.BLOCK):
        parser.error("each process needs a whole number of 2 MiB blocks")
    pages = args.size * 2**20 // PAGE_SIZE // args.processes
    rows = []
    with terminable(), ksm.borrowed() as kernel:
        for layout in args.layout or marker.LAYOUTS:
            for how in ("whole", "select"):
                scene = Scene(layout, args.processes, pages)
                rows.append(measure(kernel, scene, how, args.patience))
                show(rows[-1])
    ratios = compared(rows)
    for layout, it in ratios.items():
        print(
            f"{layout}: --select keeps {it['saving_kept']:.1%} of the saving; ksmd looks at "
            f"{it['pages_scanned_ratio']:.0%} of the pages, with {it['rmap_items_ratio']:.0%} "
            "of the records"
        )
    figures = {
        "bytes": args.size * 2**20,
        "processes": args.processes,
        "results": [asdict(row) for row in rows],
        "compared": ratios,
    }
    print(json.dumps(figures))
    return 1 if any(row.wrong_pages for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
