"""How fast pages are found: reading, digesting, grouping. All in one run, on one victim.

- process_vm_readv alone, for each size of chunk, on one core;
- the same with a digest of each page, on one core: ratio to the best of the former;
- a whole look (pagemap, reading, digests), on one core and on all;
- a full scan (which pages are there, the look, counting), on one core and on all;
- grouping 20 million digests, half of them duplicates.

What runs on one core is measured in processor time, the rest in time as it passes. Rounds are
interleaved, so that whatever else the machine does hits all alike; medians. A table for people,
then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from pagemerge import _core
from pagemerge.find import process
from pagemerge.find.groups import duplicates
from pagemerge.find.survey import survey

CHUNKS = [size << 10 for size in (256, 512, 1024, 2048, 4096)]
DIGESTS = 20_000_000
SEED = 7
ALL = ", all cores"


def victim(size: int) -> None:
    """Fill ``size`` bytes of ordinary small pages with noise, say where, and wait."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    words = np.frombuffer(memory, np.uint64)
    words[:] = np.random.default_rng(1).integers(0, 1 << 64, len(words), np.uint64)
    print(words.ctypes.data, flush=True)
    sys.stdin.read()


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long ``work`` takes, by ``clock``."""
    started = clock()
    work()
    return clock() - started


def reading(pid: int, start: int, size: int, rounds: int) -> dict[str, float]:
    """Gigabytes per second of each way to read ``size`` bytes of ``pid``: medians."""
    runs = _core.present_runs(pid, start, start + size)
    starts, pages = (np.frombuffer(part, np.uint64) for part in runs)
    count = int(pages.sum())
    out, entries = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    _core.pagemap(pid, starts, pages, entries)
    cores = len(os.sched_getaffinity(0))

    def raw(threads: int, chunk: int) -> Callable[[], object]:
        return lambda: _core.read_only(pid, starts, pages, out, threads, chunk)

    ways = {f"process_vm_readv, {chunk >> 10} KiB": raw(1, chunk) for chunk in CHUNKS}
    ways["digests"] = lambda: _core.read_digests(pid, starts, pages, entries, SEED, out)
    ways["look"] = lambda: _core.look(pid, start, count, SEED, out)
    found = process.named([str(pid)])
    ways["full scan"] = lambda: survey(found, 1)
    ways[f"process_vm_readv{ALL}"] = raw(cores, _core.CHUNK)
    ways[f"look{ALL}"] = lambda: _core.look(pid, start, count, SEED, out, cores)
    ways[f"full scan{ALL}"] = lambda: survey(found, cores)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            clock = time.perf_counter if name.endswith(ALL) else time.process_time
            spent[name].append(seconds(work, clock))
    return {name: size / statistics.median(times) / 1e9 for name, times in spent.items()}


def grouping(rounds: int) -> float:
    """Seconds to group ``DIGESTS`` digests, half of them duplicates: median."""
    random = np.random.default_rng(2)
    digests = random.integers(2, 1 << 64, DIGESTS, np.uint64)
    repeated = random.permutation(DIGESTS)[: DIGESTS // 2]
    digests[repeated] = digests[repeated[random.integers(0, DIGESTS // 20, len(repeated))]]
    return statistics.median(seconds(lambda: duplicates(digests)) for _ in range(rounds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mbytes", type=int, default=1024, help="size of the victim")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--victim", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.victim:
        return victim(args.victim)
    size = args.mbytes << 20
    command = [sys.executable, __file__, "--victim", str(size)]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as process:
        try:
            assert process.stdout
            speeds = reading(process.pid, int(process.stdout.readline()), size, args.rounds)
        finally:
            process.kill()
    group = grouping(max(args.rounds // 3, 3))
    raw = max(speed for name, speed in speeds.items() if name.endswith("KiB"))
    for name, speed in speeds.items():
        print(f"{name:<32}{speed:6.2f} GB/s {speed / raw:6.2f} of process_vm_readv on one core")
    print(f"{f'grouping {DIGESTS:,} digests':<32}{group:6.2f} s")
    print(
        json.dumps(
            {
                "readv_bytes_per_second": round(raw * 1e9),
                "digest_bytes_per_second": round(speeds["digests"] * 1e9),
                "ratio": round(speeds["digests"] / raw, 3),
                "look_bytes_per_second": round(speeds["look"] * 1e9),
                "look_ratio": round(speeds["look"] / raw, 3),
                "scan_bytes_per_second": round(speeds["full scan"] * 1e9),
                "scan_ratio": round(speeds["full scan"] / raw, 3),
                "scan_ratio_all_cores": round(
                    speeds[f"full scan{ALL}"] / speeds[f"process_vm_readv{ALL}"], 3
                ),
                "all_cores_bytes_per_second": round(speeds[f"look{ALL}"] * 1e9),
                "cores": len(os.sched_getaffinity(0)),
                "group_digests": DIGESTS,
                "group_seconds": round(group, 3),
            }
        )
    )
    return None


if __name__ == "__main__":
    main()
