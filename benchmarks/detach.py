"""What ``pagemerge detach`` costs virtual machines: the longest gap in their output, and its time.

Three guests (QEMU, all of their memory in common but for a part) are merged by ksmd, say "tick"
each 10 ms or so, and are detached. Measured: the longest time between two ticks of each, before and
meanwhile; the seconds of the command, of its work, and those in which it held threads; and what the
kernel alone needs to separate as many pages, three of each content: a process that asks for it
itself, by madvise (MADV_UNMERGEABLE). A table for people, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack

from lab import guest
from tests.support import ksm

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux.ksm import ksm_bytes
from pagemerge.model import PAGE_SIZE

MERGEABLE, UNMERGEABLE = 12, 13
CALM = 10.0
"""Seconds in which ticks are heard before."""
PATIENCE = 300.0


class Ears:
    """When each guest was heard last, and the longest that it was not."""

    def __init__(self, guests: Iterable[guest.Guest]) -> None:
        self._last = dict.fromkeys(guests, time.monotonic())
        self.longest = 0.0

    def listen(self) -> None:
        """Take in what has come."""
        for one, last in self._last.items():
            heard = False
            while one.is_heard("tick"):
                heard = True
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            if heard:
                self._last[one] = now


def until_merged(pids: Iterable[int], kernel: ksm.Ksm) -> int:
    """Have ksmd merge all that it can; pages that are merged then."""
    pids, deadline = list(pids), time.monotonic() + PATIENCE
    kernel.start(**ksm.FLAT_OUT)
    before, pages = -1, 0
    while pages > before * 1.01 or pages == 0:
        scans = kernel.full_scans
        while kernel.full_scans < scans + 2:
            if time.monotonic() > deadline:
                raise PagemergeError("ksmd has not come by twice")
            time.sleep(0.05)
        before, pages = pages, sum((ksm_bytes(pid) or 0) // PAGE_SIZE for pid in pids)
    kernel.write("run", ksm.STOP)
    return pages


def alone(pages: int, kernel: ksm.Ksm) -> float:
    """Seconds that the kernel needs to separate ``pages`` of a process that asks for it itself."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        third = pages // 3 * PAGE_SIZE
        memory = mmap.mmap(-1, 3 * third, flags=mmap.MAP_PRIVATE)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for _ in range(3):
            contents = random.Random(1)
            for _ in range(third >> 12):
                memory.write(contents.randbytes(PAGE_SIZE))
        memory.madvise(MERGEABLE)
        until_merged([os.getpid()], kernel)
        began = time.perf_counter()
        memory.madvise(UNMERGEABLE)
        os.write(write, f"{time.perf_counter() - began}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    return float(os.read(read, 100))


def measure(memory_mib: int, kernel: ksm.Ksm) -> dict[str, float]:
    """All figures: seconds, pages."""
    with guest.image(48 << 20) as image, ExitStack() as stack:
        size = guest.Size(memory_mib, 16, memory_mib // 4, every_seconds=3600)
        guests = [stack.enter_context(guest.Guest(image, size)) for _ in range(3)]
        for one in guests:
            one.until_ready(PATIENCE)
        pids = [one.pid for one in guests]
        until_merged(pids, kernel)
        for one in guests:
            one.ask("tick")
        ears, end = Ears(guests), time.monotonic() + CALM
        while time.monotonic() < end:
            ears.listen()
            time.sleep(0.002)
        before, ears.longest = ears.longest, 0.0
        pages = sum((ksm_bytes(pid) or 0) // PAGE_SIZE for pid in pids)
        ears, began = Ears(guests), time.perf_counter()
        argv = [sys.executable, "-m", "pagemerge", "detach", "--json", *map(str, pids)]
        command = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        while command.poll() is None:
            ears.listen()
            time.sleep(0.002)
        seconds = time.perf_counter() - began
        ears.listen()
        assert command.stdout is not None
        rows = json.loads(command.stdout.read())["processes"]
        left = sum((ksm_bytes(pid) or 0) // PAGE_SIZE for pid in pids)
    return {
        "pages": pages,
        "pages_left": left,
        "longest_gap_before": before,
        "longest_gap": ears.longest,
        "seconds": seconds,
        "separating_seconds": sum(row["seconds"] for row in rows),
        "stops": sum(row["stops"] for row in rows),
        "held_seconds": sum(row["held_seconds"] for row in rows),
        "longest_hold_seconds": max(row["longest_hold_seconds"] for row in rows),
        "kernel_alone_seconds": alone(pages, kernel),
    }


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, default=256, metavar="MIB", help="of each guest")
    args = parser.parse_args()
    try:
        with ksm.borrowed() as kernel:
            found = measure(args.memory, kernel)
    except Unsupported as lack:
        print(f"detach: {lack}", file=sys.stderr)
        return 77
    for name, value in found.items():
        shown = f"{value:,.0f}" if name.startswith(("pages", "stops")) else f"{value:.3f} s"
        print(f"{name.replace('_', ' '):24}{shown:>12}")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
