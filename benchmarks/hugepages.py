"""What merging costs a program that reads memory at random, with its huge pages and without them.

Two processes (``lab/reader.py``) have half of the memory each, marked as QEMU does it for a guest:
mergeable, and huge pages are wanted. 30% of the pages are the same in both, the rest is unique. In
the scene ``blocks`` the common pages fill blocks of 2 MiB, and 4 pages of each other block are
common, too; in the scene ``pages`` they are 30% of each block. The states, one after the other, in
another order in each round:

- ``huge``: not merged, huge pages;
- ``small``: not merged, small pages: what huge pages are worth on this machine;
- ``split``: merged by a hub with ``huge_price = 0``: every block is small;
- ``kept``: merged by a hub with its default price;
- ``ksmd``: all of it is marked, and merged by ksmd flat out;
- ``selected``: only what ``pagemerge attach --select`` marks, merged by ksmd flat out.

Told are the nanoseconds of processor time that a read takes, where each read depends on the one
before, and the speed as a share of that of a control: a third process that is never merged, has
huge pages and as much memory as one of the others, and reads in turn with them, so that a busy host
delays them all alike. Told are also misses of the TLB where the processor counts them, bytes in
huge pages, and what merging saves: anonymous memory of the two processes in ``huge``, less
anonymous memory (a page that both map counts once) and the hub's store in this state, by the
kernel's accounts. ksmd stands still while they read. All bytes are checked in the end. A table for
people, then one line of JSON. ``--into FOLDER`` also writes ``hugepages.json`` and
``hugepages.svg`` there; ``--from FILE`` draws an earlier run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab import hub, svg
from lab.building import compiled
from lab.demo_picture import STYLE
from lab.svg import text
from tests.support import ksm
from tests.support.ending import terminable

from pagemerge.demo.dialog import Child, ask_all
from pagemerge.errors import PagemergeError
from pagemerge.hub.settings import Settings
from pagemerge.linux.smaps import sums
from pagemerge.model import PAGE_SIZE

LAB = Path(__file__).parent / "lab"
STATES = ("huge", "small", "split", "kept", "ksmd", "selected")
BY_HUB = ("split", "kept")
BY_KSMD = ("ksmd", "selected")
WORDS = {
    "huge": "not merged, huge pages",
    "small": "not merged, small pages",
    "split": "hub, every block small",
    "kept": "hub, blocks kept huge",
    "ksmd": "ksmd, everything marked",
    "selected": "ksmd, attach --select",
}
FIELDS = (b"Pss_Anon", b"AnonHugePages", b"ShmemPmdMapped")
SCANS = 4
"""Full scans after which ksmd has merged what it ever will: two find, smart_scan skips some."""

SETTLING = 300.0
"""Seconds that merging may take until nothing changes any more."""
STILL = 5.0
"""Seconds without a change after which nothing changes any more."""
FILLING = 300.0
"""Seconds that filling or checking may take."""
REPEATS = 9
"""How often each process reads in a state; the median counts."""


@dataclass(frozen=True, slots=True)
class Result:
    """One state in one round."""

    state: str
    nanoseconds: float
    """Processor time of a read that depends on the one before; the median."""
    speed: float
    """The control's time for such a read, as a share of this; the median."""
    speed_apart: float
    """The same for reads that depend on no other."""
    misses: float | None
    """TLB misses of a read; None: this machine does not count them."""
    anonymous_bytes: int
    huge_bytes: int
    """Of the processes, in huge pages: anonymous ones, and those of slabs."""
    store_bytes: int
    settled_seconds: float
    """Until nothing changed any more; 0 if nothing merges."""
    wrong: int
    """Pages with a wrong byte."""


@contextlib.contextmanager
def readers(library: Path, own: hub.Hub | None, count: int) -> Iterator[list[Child]]:
    """Processes that have no memory yet, clients of ``own`` if that is not None."""
    argv = [sys.executable, str(LAB / "reader.py"), str(os.getpid()), str(library)]
    env = own.environment() if own else dict(os.environ)
    env["PYTHONPATH"] = str(LAB.parent)
    if own:
        argv = [sys.executable, "-m", "pagemerge", "run", "--engine", "user", "--", *argv]
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Child(argv, env=env)) for _ in range(count)]


def accounts(both: list[Child]) -> tuple[int, int]:
    """Anonymous bytes of the processes, their share of merged pages, and bytes in huge pages."""
    found = [sums(one.pid, FIELDS) for one in both]
    anonymous = sum(it[FIELDS[0]] for it in found)
    return anonymous, sum(it[FIELDS[1]] + it[FIELDS[2]] for it in found)


def settle(own: hub.Hub, both: list[Child]) -> float:
    """Wait until nothing changes any more; returns the seconds until then."""
    began = changed = time.monotonic()
    last: tuple[int, ...] = ()
    while time.monotonic() - changed < STILL:
        if time.monotonic() - began > SETTLING:
            raise PagemergeError(f"the hub still merges after {SETTLING:g} s")
        status = own.status()
        now = (*accounts(both), status.pages_shared, status.pages_sharing)
        if now != last:
            last, changed = now, time.monotonic()
        time.sleep(1.0)
    return round(changed - began, 1)


def by_ksmd(kernel: ksm.Ksm, state: str, both: list[Child]) -> float:
    """Have ksmd merge what is marked, or what ``attach`` selects; returns the seconds it took."""
    began = time.monotonic()
    if state == "selected":
        argv = [sys.executable, "-m", "pagemerge", "attach", "--select", "--json"]
        argv += [str(one.pid) for one in both]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PagemergeError(f"attach --select failed: {done.stderr or done.stdout}")
    first = kernel.full_scans
    kernel.start(**ksm.FLAT_OUT)
    while kernel.full_scans < first + SCANS:
        if time.monotonic() - began > SETTLING:
            raise PagemergeError(f"ksmd still merges after {SETTLING:g} s")
        time.sleep(0.02)
    kernel.write("run", ksm.STOP)
    return round(time.monotonic() - began, 1)


def compare(
    both: list[Child], control: Child, reads: int, *, chained: bool
) -> tuple[float, float, float]:
    """Have the processes read in turn; the medians of nanoseconds, misses, and speeds."""
    nanoseconds, misses, speeds = [], [], []
    for _ in range(REPEATS):
        for one in both:
            base, own = (it.ask("read", count=reads, chained=chained) for it in (control, one))
            nanoseconds.append(own["nanoseconds"])
            misses.append(own["misses"])
            speeds.append(base["nanoseconds"] / own["nanoseconds"])
    median = statistics.median
    return median(nanoseconds), median(misses), median(speeds)


def measure(state: str, library: Path, args: argparse.Namespace) -> Result:
    """Make a state and measure it. Raises ``Unsupported`` where ksmd is not to be had for one."""
    pages = args.gib * (1 << 30) // 2 // PAGE_SIZE
    with contextlib.ExitStack() as stack:
        kernel = stack.enter_context(ksm.borrowed()) if state in BY_KSMD else None
        own = None
        if state in BY_HUB:
            price = 0 if state == "split" else args.price
            own = stack.enter_context(hub.running(huge_price=price))
        both = stack.enter_context(readers(library, own, 2))
        [control] = stack.enter_context(readers(library, None, 1))
        for index, one in enumerate([*both, control]):
            fill = {"scene": args.scene, "index": index, "pages": pages}
            fill["huge"] = state != "small" or one is control
            fill["marked"] = state in (*BY_HUB, "ksmd") and one is not control
            one.ask("fill", patience=FILLING, **fill)
        settled = settle(own, both) if own else by_ksmd(kernel, state, both) if kernel else 0.0
        ask_all(both, "check")  # a merged page that was never read has no entry in a page table
        taken, misses, speed = compare(both, control, args.reads, chained=True)
        anonymous, huge_bytes = accounts(both)
        return Result(
            state=state,
            nanoseconds=taken,
            speed=speed,
            speed_apart=compare(both, control, args.reads, chained=False)[2],
            misses=None if misses < 0 else misses,
            anonymous_bytes=anonymous,
            huge_bytes=huge_bytes,
            store_bytes=own.status().store_bytes if own else 0,
            settled_seconds=settled,
            wrong=sum(it["wrong"] for it in ask_all(both, "check")),
        )


def summary(rounds: list[list[Result]]) -> dict[str, dict[str, Any]]:
    """By state: the median of each figure over all rounds."""
    found: dict[str, dict[str, Any]] = {}
    for state in STATES:
        rows = [it for one in rounds for it in one if it.state == state]
        if not rows:
            continue
        before = [it for one in rounds for it in one if it.state == "huge"]
        pairs = list(zip(rows, before, strict=True))
        speeds = [it.speed for it in rows]
        saved = [base.anonymous_bytes - it.anonymous_bytes - it.store_bytes for it, base in pairs]
        found[state] = {
            "nanoseconds": statistics.median(it.nanoseconds for it in rows),
            "speed": statistics.median(speeds),
            "speeds": speeds,
            "speed_apart": statistics.median(it.speed_apart for it in rows),
            "misses": None
            if rows[0].misses is None
            else statistics.median(it.misses or 0 for it in rows),
            "huge_bytes": statistics.median(it.huge_bytes for it in rows),
            "saved_bytes": statistics.median(saved) if state in BY_HUB + BY_KSMD else 0,
            "settled_seconds": statistics.median(it.settled_seconds for it in rows),
            "wrong": sum(it.wrong for it in rows),
        }
    return found


def table(run: dict[str, Any]) -> list[str]:
    """Rows for people."""
    head = f"{'state':<28}{'a read':>9}{'speed':>7}{'(range)':>16}{'apart':>7}"
    rows = [f"{head}{'misses':>8}{'huge':>10}{'saved':>10}{'settled':>9}{'wrong':>7}"]
    for state, it in run["states"].items():
        misses = "-" if it["misses"] is None else f"{it['misses']:.2f}"
        spread = f"{min(it['speeds']):.3f} to {max(it['speeds']):.3f}"
        rows.append(
            f"{WORDS[state]:<28}{it['nanoseconds']:6.1f} ns{it['speed']:7.3f}{spread:>16}"
            f"{it['speed_apart']:7.3f}{misses:>8}{it['huge_bytes'] / 1e6:7,.0f} MB"
            f"{it['saved_bytes'] / 1e6:7,.0f} MB{it['settled_seconds']:7.1f} s{it['wrong']:7}"
        )
    return rows


WIDTH, LEFT, BAR, ROW = 880, 300, 34, 66


def drawn(run: dict[str, Any]) -> str:
    """The picture of a run, as SVG: a bar for the speed of each state, and what it saves."""
    states, gib = run["states"], run["gib"]
    most = max(it["saved_bytes"] for it in states.values()) or 1
    heading = f"Random reads of {gib} GiB, of which 30% are merged"
    means = "Speed, as a share of that with huge pages and without merging; and memory saved"
    parts = [text(40, 50, 26, heading, bold=True), text(40, 80, 17, means, "note")]
    for row, (state, it) in enumerate(states.items()):
        top, length = 112 + row * ROW, WIDTH - LEFT - 150
        wide, saved = it["speed"] * length, it["saved_bytes"] / most * length
        speed, bytes_saved = f"{it['speed']:.2f}", f"{it['saved_bytes'] / 1e6:,.0f} MB saved"
        parts += [
            text(40, top + 24, 18, WORDS[state]),
            f'<rect class="data" x="{LEFT}" y="{top}" width="{wide:.1f}" height="{BAR}" rx="4"/>',
            text(LEFT + wide + 10, top + 24, 18, speed, bold=True),
        ]
        if it["saved_bytes"]:
            parts += [
                f'<rect class="store" x="{LEFT}" y="{top + BAR + 2}" width="{saved:.1f}" '
                'height="10" rx="3"/>',
                text(LEFT + saved + 10, top + BAR + 14, 15, bytes_saved, "note"),
            ]
    kernel = ".".join(run["kernel"].split("-")[0].split(".")[:2])
    often = "One round" if run["rounds"] == 1 else f"Median of {run['rounds']} rounds"
    note = f"{often}, two processes, scene {run['scene']}, {kernel}."
    height = 136 + len(states) * ROW
    parts.append(text(40, height - 14, 16, note, "note"))
    told = (f"speed {it['speed']:.2f} {WORDS[state]}" for state, it in states.items())
    title = f"{heading}: {', '.join(told)}"
    return svg.picture(WIDTH, height, STYLE, title, parts)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all rounds. Raises ``Unsupported`` where that cannot be done."""
    rounds: list[list[Result]] = []
    chosen = list(args.states)
    if (lack := ksm.lacks()) and set(chosen) & set(BY_KSMD):
        print(f"what ksmd merges is left out: {lack}", file=sys.stderr)
        chosen = [it for it in chosen if it not in BY_KSMD]
    with terminable(), tempfile.TemporaryDirectory(prefix="pagemerge-reads-") as folder:
        library = compiled(LAB / "reads.c", Path(folder) / "reads.so", "-shared", "-fPIC")
        for number in range(args.rounds):
            states = ["huge", *(it for it in STATES[1:] if it in chosen)]
            order = states[number % len(states) :] + states[: number % len(states)]
            rounds.append([measure(state, library, args) for state in order])
            print(f"round {number + 1} of {args.rounds} is over", file=sys.stderr, flush=True)
    return {
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "scene": args.scene,
        "gib": args.gib,
        "price_pages": args.price,
        "rounds": args.rounds,
        "states": summary(rounds),
        "all": [[asdict(it) for it in one] for one in rounds],
    }


def main() -> int:
    """Measure or read, print, and draw; the exit status is 1 if a byte was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gib", type=int, default=1, choices=(1, 2, 4, 8, 16), help="of both")
    parser.add_argument("--rounds", type=int, default=3, help="how often (default 3)")
    parser.add_argument("--scene", default="blocks", choices=("blocks", "pages"))
    parser.add_argument(
        "--states", nargs="+", choices=STATES[1:], default=STATES[1:], help="beside `huge`"
    )
    parser.add_argument("--reads", type=int, default=2_000_000, help="of a process at a time")
    parser.add_argument("--price", type=int, default=Settings().huge_price, help="huge_price")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="where JSON and picture go")
    parser.add_argument("--from", dest="file", type=Path, metavar="FILE", help="draw it again")
    args = parser.parse_args()
    try:
        found = json.loads(args.file.read_text()) if args.file else run(args)
    except PagemergeError as error:
        print(f"hugepages: {error}", file=sys.stderr)
        return error.exit_status
    if args.into:
        (args.into / "hugepages.json").write_text(json.dumps(found, indent=2) + "\n")
        (args.into / "hugepages.svg").write_text(drawn(found))
    print("\n".join(table(found)))
    print(json.dumps(found))
    return 1 if any(it["wrong"] for it in found["states"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
