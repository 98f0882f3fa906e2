"""How the cost of the user engine grows with the memory, the clients and the cores.

Each row is a hub of its own and so many processes, which have so much memory in all. Of each 2 MiB,
60% are the same in every process, and the rest is unique. They fill their memory while the hub is
stopped; then it merges flat out (``cpu_percent = 100``). The memory grows with 8 processes, and the
number of processes with 1 GB; hub and processes may use one core, and then two. GB are powers of
1024 here.

- seconds: from the beginning of the merging until 99.9% of what can be saved is saved;
- us a page: processor time, for each page that was merged, of the hub and of the agents;
- a cycle: processor time of hub and agents for looking at all clients once when all is merged; mean
  of 64 cycles, in which the hub reads each unique page once, and of which most read nothing;
- bytes a page, for each page of the processes: the hub's records of pages by its own count; and the
  anonymous memory that the hub has more than before, which includes what plans have left behind.

A table for people, a line of JSON, and with ``--into`` the JSON and a picture. The exponents are
slopes on logarithmic scales, with as many cores: of the processor time of all the merging, of a
cycle and of the hub's records, over the memory and over the number of processes. 1 is linear.
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

import numpy as np
from lab import hub
from lab.others import Others
from lab.scale_picture import drawn
from lab.scene import GOOD, Scene, anonymous_pages, held_user_engine, until_merged
from tests.support.ending import terminable

from pagemerge.demo.dialog import ask_all
from pagemerge.errors import PagemergeError
from pagemerge.hub.records import EVERY
from pagemerge.model import PAGE_SIZE

CLIENTS = 8
"""While the memory grows."""
GBYTES = 1
"""While the number of clients grows."""
PAGES_A_GB = (1 << 30) // PAGE_SIZE
PATIENCE = 300.0
"""Seconds that merging may take, and all cycles."""
PERIOD = 64
"""Cycles in which the hub reads unique pages once, after two such periods."""
SETTLED = EVERY + 1
"""Seconds after the merging when the hub has given back records that say nothing any more."""
PAUSE = 0.02
"""Seconds between two cycles at most, so that they do not take long to measure."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one size."""

    clients: int
    gbytes: int
    cores: int
    seconds: float
    merged_pages: int
    hub_us_a_page: float
    agents_us_a_page: float
    cycle_ms: float
    records_bytes_a_page: float
    hub_bytes_a_page: float
    others_cores: float
    """Processors that other programs kept busy meanwhile."""
    wrong_pages: int


@contextlib.contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Let all that is started inside run on so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(clients: int, gbytes: int, cores: int) -> Row:
    """Merge one size. Raises ``PagemergeError``."""
    scene = Scene("unique40", clients, gbytes * PAGES_A_GB // clients)
    settings = {"idle_percent": 100, "longest_pause": PAUSE}
    with pinned(cores), held_user_engine(scene, **settings) as (own, children):
        pids, others = [child.pid for child in children], Others(None)
        bare = anonymous_pages([own.process.pid])
        spent, agents = own.cpu_seconds(), hub.agents_cpu_seconds(pids)
        began = time.monotonic()
        own.release()
        saved = until_merged(own, pids, scene.savings, began + PATIENCE)
        seconds = time.monotonic() - began
        spent, agents = own.cpu_seconds() - spent, hub.agents_cpu_seconds(pids) - agents
        if saved < GOOD * scene.savings:
            raise PagemergeError(f"{saved} pages of {scene.savings} merged in {PATIENCE:g} s")
        merged = sum(it.merges for it in own.status().clients)
        cycle = cycle_seconds(own, pids)
        time.sleep(max(began + seconds + SETTLED - time.monotonic(), 0))
        records = own.status().metadata_bytes
        busy, grown = others.cores(), anonymous_pages([own.process.pid]) - bare
        wrong = sum(answer["wrong"] for answer in ask_all(children, "check"))
    return Row(
        clients=clients,
        gbytes=gbytes,
        cores=cores,
        seconds=round(seconds, 2),
        merged_pages=merged,
        hub_us_a_page=round(spent / merged * 1e6, 2),
        agents_us_a_page=round(agents / merged * 1e6, 2),
        cycle_ms=round(1000 * cycle, 2),
        records_bytes_a_page=round(records / (gbytes * PAGES_A_GB), 1),
        hub_bytes_a_page=round(grown * PAGE_SIZE / (gbytes * PAGES_A_GB), 1),
        others_cores=round(busy, 2),
        wrong_pages=wrong,
    )


def cycle_seconds(own: hub.Hub, pids: Sequence[int]) -> float:
    """Return the processor time of a cycle in which nothing changes, hub and agents together."""
    until_scans(own, own.status().full_scans + 2 * PERIOD)
    first = own.status()
    agents = hub.agents_cpu_seconds(pids)
    until_scans(own, first.full_scans + PERIOD)
    agents = hub.agents_cpu_seconds(pids) - agents
    last = own.status()
    spent = last.cpu_seconds - first.cpu_seconds + agents
    return spent / (last.full_scans - first.full_scans)


def until_scans(own: hub.Hub, scans: int) -> None:
    """Wait for so many full scans. Raises ``PagemergeError``."""
    deadline = time.monotonic() + PATIENCE
    while own.status().full_scans < scans:
        if time.monotonic() > deadline:
            raise PagemergeError(f"the hub does not look {PERIOD} times in {PATIENCE:g} s")
        time.sleep(0.5)  # to answer takes the hub a moment, too


def sizes(most: int, clients: int) -> list[tuple[int, int]]:
    """Return the clients and gigabytes to measure: the memory grows, then the clients."""
    memory = [(CLIENTS, 1 << power) for power in range(most.bit_length()) if 1 << power <= most]
    number = [(1 << power, GBYTES) for power in range(1, clients.bit_length())]
    return list(dict.fromkeys(memory + number))


def exponents(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return how fast the costs grow with the memory, and with the clients."""
    found = []
    for cores in dict.fromkeys(it.cores for it in rows):
        mine = [it for it in rows if it.cores == cores]
        curves = {
            "memory": ([it for it in mine if it.clients == CLIENTS], "gbytes"),
            "clients": ([it for it in mine if it.gbytes == GBYTES], "clients"),
        }
        for over, (some, name) in curves.items():
            if len(some) < 2:
                continue
            at = np.log([getattr(it, name) for it in some])
            merging = [(it.hub_us_a_page + it.agents_us_a_page) * it.merged_pages for it in some]
            records = [it.records_bytes_a_page * it.gbytes for it in some]
            costs = {"merging": merging, "cycle": [it.cycle_ms for it in some], "records": records}
            slopes = {
                what: round(float(np.polyfit(at, np.log(np.maximum(cost, 1e-3)), 1)[0]), 2)
                for what, cost in costs.items()
            }
            found.append({"over": over, "cores": cores, **slopes})
    return found


HEAD = (
    f"{'cores':>5}{'clients':>9}{'GB':>5}{'merged in':>11}{'hub':>9}{'agents':>9}{'a cycle':>11}"
    f"{'records':>9}{'hub':>9}\n{'':>30}{'us a page':>18}{'':>11}{'bytes a page':>18}"
)


def show(it: Row) -> None:
    """One line of the table."""
    wrong = f"  {it.wrong_pages} WRONG PAGES" if it.wrong_pages else ""
    print(
        f"{it.cores:>5}{it.clients:>9}{it.gbytes:>5}{it.seconds:>9.2f} s{it.hub_us_a_page:>9.2f}"
        f"{it.agents_us_a_page:>9.2f}{it.cycle_ms:>8.2f} ms{it.records_bytes_a_page:>9.1f}"
        f"{it.hub_bytes_a_page:>9.1f}{wrong}",
        flush=True,
    )


def run(args: argparse.Namespace) -> list[Row]:
    """Measure all sizes that this host can have. Raises ``PagemergeError``."""
    rows: list[Row] = []
    have = len(os.sched_getaffinity(0))
    with terminable():
        for cores in args.cores or [1, 2]:
            if cores > have:
                print(f"{cores} cores are left out: this host has {have}", file=sys.stderr)
                continue
            for clients, gbytes in sizes(args.gbytes, args.clients):
                rows.append(measure(clients, gbytes, cores))
                show(rows[-1])
    return rows


def main() -> int:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gbytes", type=int, default=2, help="largest memory (default: 2)")
    parser.add_argument("--clients", type=int, default=16, help="most processes (default: 16)")
    parser.add_argument("--cores", type=int, action="append", help="repeatable (default: 1 and 2)")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="where JSON and picture go")
    parser.add_argument(
        "--from",
        dest="files",
        type=Path,
        action="append",
        metavar="FILE",
        help="take the rows of this run; repeatable",
    )
    args = parser.parse_args()
    if args.gbytes < 1 or args.clients < 2:
        parser.error("--gbytes must be 1 or more, and --clients 2 or more")
    print(HEAD, flush=True)
    if args.files:
        told = [json.loads(file.read_text())["rows"] for file in args.files]
        rows = [Row(**row) for part in told for row in part]
        for row in rows:
            show(row)
    else:
        try:
            rows = run(args)
        except PagemergeError as error:
            print(f"scale: {error}", file=sys.stderr)
            return error.exit_status
    result: dict[str, Any] = {
        "kernel": os.uname().release,
        "exponents": exponents(rows),
        "rows": [asdict(row) for row in rows],
    }
    for it in exponents(rows):
        print(
            f"over {it['over']}, {it['cores']} cores: merging {it['merging']}, "
            f"a cycle {it['cycle']}, the hub's records {it['records']}"
        )
    print(json.dumps(result))
    if args.into:
        args.into.mkdir(parents=True, exist_ok=True)
        (args.into / "scale.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.into / "scale.svg").write_text(drawn(result["rows"], CLIENTS, GBYTES))
    return 1 if any(it.wrong_pages for it in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
