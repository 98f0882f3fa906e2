"""How much of a virtual machine stays merged while it and its disk write to its memory.

Two pairs of machines (tests/victims/kvm.c) with the same contents are merged, then guest and device
go on writing random pages, slowly, with a few contents only: what is written is soon equal to
other pages again. The device of one pair stores through its own mapping, that of the other reads a
file by direct I/O (O_DIRECT), as QEMU does with cache=none. Told every ten seconds is the share of
each pair's pages that is merged, by the kernel's account (pagemap). A share that falls and does not
rise again is memory that is never merged again. A table for people, then one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab import hub
from lab.building import compiled, lacks_compiler
from tests.support.ending import terminable

from pagemerge.demo.dialog import Child, ask_all
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.model import PAGE_SIZE

VICTIM = Path(__file__).parents[1] / "tests" / "victims" / "kvm.c"
MERGING = 120.0
"""Seconds that the first merge may take."""
EVERY = 10.0
WRONG = ("lost", "stale", "unzeroed", "missed_dirty")


@dataclass(slots=True)
class Series:
    """What came of one pair."""

    device: str
    """``stores`` or ``direct``."""
    pages: int
    """Of both machines."""
    merged_pages: list[int] = field(default_factory=list)
    """Every ten seconds, from before the first write on."""
    writes: int = 0
    """Halves of pages written by guests and devices."""
    wrong: int = 0
    """Lost writes, stale views."""
    merges: int = 0
    separations: int = 0
    notes: list[str] = field(default_factory=list)
    """What the hub says of the machines."""


def lacks() -> str | None:
    """Why no machine can be made here, or nothing."""
    if reason := lacks_compiler():
        return reason
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is missing, or may not be opened"
    return None


@contextlib.contextmanager
def pair(
    program: Path, folder: Path, device: str, args: argparse.Namespace
) -> Iterator[tuple[hub.Hub, list[Child], Series]]:
    """Two machines with a hub of their own, filled with the same contents."""
    run = [sys.executable, "-m", "pagemerge", "run", "--engine", "user"]
    argv = [*run, "--barrier", args.barrier, "--", str(program), "-"]
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(hub.running())
        machines = []
        for number in range(2):
            words = [str(number), str(number + 7), str(args.pages), "1", str(args.pause * 1000)]
            one = stack.enter_context(Child([*argv, *words], env=own.environment()))
            if device == "direct":
                one.ask("disk", path=str(folder / f"disk{number}"))
            one.ask("write")
            machines.append(one)
        yield own, machines, Series(device, 2 * args.pages)


def merged_pages(machines: list[Child]) -> int:
    """Pages of both machines that are merged now."""
    return sum(int(it["merged"]) for it in ask_all(machines, "count"))


def until_merged(machines: list[Child], series: Series) -> None:
    """Wait until both machines are merged as a whole."""
    deadline = time.monotonic() + MERGING
    while (now := merged_pages(machines)) < series.pages:
        if time.monotonic() > deadline:
            raise PagemergeError(f"{now} of {series.pages} pages are merged after {MERGING:g} s")
        time.sleep(0.2)
    series.merged_pages.append(now)


def finish(own: hub.Hub, machines: list[Child], series: Series) -> None:
    """End the writing, verify all pages, and note what the machines and the hub counted."""
    for counts in ask_all(machines, "check"):
        series.writes += counts["writes"] - series.pages  # the first filling does not count
        series.wrong += sum(counts[name] for name in WRONG)
    pids = {one.pid for one in machines}
    for client in own.status().clients:
        if client.pid in pids:
            series.merges += client.merges
            series.separations += client.separations
            series.notes.append(client.note)


def measure(args: argparse.Namespace, folder: Path) -> list[Series]:
    """Both pairs at the same time."""
    program = compiled(VICTIM, folder / "kvm", "-pthread")
    with contextlib.ExitStack() as stack:
        pairs = [
            stack.enter_context(pair(program, folder, device, args))
            for device in ("stores", "direct")
        ]
        for _, machines, series in pairs:
            until_merged(machines, series)
        for _, machines, _ in pairs:
            ask_all(machines, "race", kinds=args.kinds)
        began = time.monotonic()
        for number in range(1, int(args.seconds / EVERY) + 1):
            time.sleep(max(0.0, began + number * EVERY - time.monotonic()))
            for _, machines, series in pairs:
                series.merged_pages.append(merged_pages(machines))
            print(row([it for _, _, it in pairs], number), file=sys.stderr, flush=True)
        for own, machines, series in pairs:
            finish(own, machines, series)
    return [series for _, _, series in pairs]


def row(found: list[Series], number: int) -> str:
    """The shares at one time."""
    shares = (f"{it.merged_pages[number] / it.pages:10.1%}" for it in found)
    return f"{number * EVERY:7.0f} " + "".join(shares)


def table(found: list[Series]) -> list[str]:
    """Rows for people."""
    rows = ["seconds " + "".join(f"{series.device:>10}" for series in found)]
    rows += [row(found, number) for number in range(len(found[0].merged_pages))]
    for name in ("writes", "merges", "separations", "wrong"):
        rows.append(f"{name:<12}" + "".join(f"{getattr(it, name):10}" for it in found))
    return rows


def main() -> int:
    """Measure and print; the exit status is 1 if a write was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (default 120)")
    parser.add_argument("--pages", type=int, default=16384, help="of each machine, at most 16384")
    parser.add_argument("--pause", type=int, default=250, help="ms between 16 writes, at most")
    parser.add_argument("--kinds", type=int, default=4, help="contents that guests write")
    parser.add_argument("--barrier", default="move")
    args = parser.parse_args()
    try:
        if reason := lacks():
            raise Unsupported(reason)
        with terminable(), tempfile.TemporaryDirectory(prefix="pagemerge-decay-") as folder:
            found = measure(args, Path(folder))
    except PagemergeError as error:
        print(f"decay: {error}", file=sys.stderr)
        return error.exit_status
    print("\n".join(table(found)))
    figures = {"page_bytes": PAGE_SIZE, "every_seconds": EVERY, "pause_ms": args.pause}
    print(json.dumps({**figures, "series": [asdict(series) for series in found]}))
    return 1 if any(series.wrong for series in found) else 0


if __name__ == "__main__":
    sys.exit(main())
