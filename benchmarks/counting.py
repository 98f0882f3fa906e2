"""How counting duplicates grows with the memory: synthetic digests of 1 GB to 64 GB.

- clones: eight processes with the same contents;
- unique: no content twice;
- Zipf: few contents are very frequent, very many are rare;
- forked: eight processes that share all frames, whose names take memory, too.

Each figure comes from a process of its own: processor time of all threads, time as it passes, and
the most memory beyond what the process had before it made the digests, for each page. That includes
digests, frames and the marks of what the user engine could be given, which a scan holds; nothing is
read. GB are powers of 1024 here. A table for people, then one line of JSON. ``exponent`` is the
slope of processor time over pages on logarithmic scales: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pagemerge.find.tally import tally
from pagemerge.model import PAGE_SIZE

UInt64s = NDArray[np.uint64]

PROCESSES = 8
PAGES_A_GB = (1 << 30) // PAGE_SIZE
STEP = 1 << 18
"""Digests that are made at a time, so that making them takes little memory."""
SPREAD = np.uint64(0x9E3779B97F4A7C15)


def clones(random: np.random.Generator, digests: UInt64s) -> None:
    """Fill in the same digests for each process."""
    one = len(digests) // PROCESSES
    unique(random, digests[:one])
    for number in range(1, PROCESSES):
        digests[number * one : (number + 1) * one] = digests[:one]


def unique(random: np.random.Generator, digests: UInt64s) -> None:
    """Fill in random digests."""
    for at in range(0, len(digests), STEP):
        part = digests[at : at + STEP]
        part[:] = random.integers(2, 1 << 64, len(part), np.uint64)


def zipf(random: np.random.Generator, digests: UInt64s) -> None:
    """Fill in digests of contents with Zipf frequencies."""
    for at in range(0, len(digests), STEP):
        part = digests[at : at + STEP]
        part[:] = random.zipf(1.3, len(part)).astype(np.uint64) * SPREAD | np.uint64(2)


KINDS: dict[str, Callable[[np.random.Generator, UInt64s], None]] = {
    "clones": clones,
    "unique": unique,
    "Zipf": zipf,
    "forked": clones,
}


def status(key: str) -> int:
    """A size in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":"))


def measure(kind: str, pages: int) -> dict[str, float]:
    """Count synthetic digests; return seconds, processor seconds, and bytes a page."""
    warm = np.arange(2, 1002, dtype=np.uint64)
    tally(warm, warm, np.array([0, 1000]))
    KINDS[kind](np.random.default_rng(1), warm)  # loads what numpy loads late
    before = status("VmRSS")
    digests, frames = (np.zeros(pages, np.uint64) for _ in range(2))
    KINDS[kind](np.random.default_rng(1), digests)
    if kind == "forked":
        np.invert(digests, out=frames)
    markable = np.ones(pages, np.bool_)
    offsets = np.linspace(0, pages, PROCESSES + 1).astype(np.int64)
    Path("/proc/self/clear_refs").write_text("5")  # so that the peak is that of the count
    started, used = time.perf_counter(), time.process_time()
    tally(digests, frames, offsets, markable)
    return {
        "seconds": round(time.perf_counter() - started, 3),
        "processor_seconds": round(time.process_time() - used, 3),
        "bytes_a_page": round((status("VmHWM") - before) / pages, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gbytes", type=int, default=16, help="largest memory (default: 16)")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "PAGES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]))))
        return
    sizes = [1 << power for power in range(args.gbytes.bit_length()) if 1 << power <= args.gbytes]
    result: dict[str, object] = {}
    print(
        f"{'kind':<8}{'GB':>4}{'seconds':>10}{'processor':>11}{'ns a page':>11}{'bytes a page':>14}"
    )
    for kind in KINDS:
        rows = []
        for size in sizes:
            pages = size * PAGES_A_GB
            command = [sys.executable, __file__, "--one", kind, str(pages)]
            done = subprocess.run(command, capture_output=True, check=True)
            one: dict[str, float] = json.loads(done.stdout)
            spent = one["processor_seconds"]
            print(
                f"{kind:<8}{size:>4}{one['seconds']:>10.2f}{spent:>9.2f} s"
                f"{spent / pages * 1e9:>11.0f}{one['bytes_a_page']:>14.1f}",
                flush=True,
            )
            rows.append({"gbytes": size, **one})
        times = [max(float(row["processor_seconds"]), 1e-3) for row in rows]
        slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0]) if len(sizes) > 1 else 1.0
        result[kind] = {"exponent": round(slope, 3), "sizes": rows}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
