"""What 1,000 callers of the API do to merging: the time of a merge and of a cycle beside them.

The daemon runs a hub and the watch. Rounds alternate: nobody calls, and all callers are subscribed
to the figures every two seconds, as `pagemerge top` asks for them. In each round, processes fill
their memory with equal pages; what is measured is the time until these are merged, and then the
time of the hub's full cycles. A table for people, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.scene import GOOD, Scene, fill, workers
from tests.support.ending import terminable
from tests.support.hubs import FAST
from tests.support.services import Service

from pagemerge.errors import PagemergeError
from pagemerge.linux.process import stat

CYCLES = 5.0
"""Seconds in which cycles are counted."""
PATIENCE = 300.0
INTERVAL = 2.0


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of a merge and of a cycle, and what the callers got and cost."""

    callers: int
    merge: float
    cycle: float
    replies: float = 0.0
    """A second."""
    watch: float = 0.0
    """Share of a core that the watch took."""


CALL = {
    "method": "org.pagemerge.Subscribe",
    "parameters": {"interval_seconds": INTERVAL},
    "more": True,
}


def call(path: str, callers: int) -> None:
    """Subscribe ``callers`` times, read all replies, and print how many they were at the end of
    standard input."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    selector, replies = selectors.DefaultSelector(), 0
    for _ in range(callers):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(path)
        peer.sendall(json.dumps(CALL).encode() + b"\0")
        selector.register(peer, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("there", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                print(replies, flush=True)
                return
            assert isinstance(key.fileobj, socket.socket)
            part = key.fileobj.recv(1 << 16)
            if not part:
                raise SystemExit("the service has closed a connection")
            replies += part.count(b"\0")


def merge_seconds(service: Service, scene: Scene) -> tuple[float, float]:
    """Return the seconds in which new memory is filled and merged, and the seconds of a cycle
    then."""
    with workers(scene, "user", {**os.environ, **service.env}) as children:
        began = time.monotonic()
        fill(children)
        while service.status().pages_sharing < GOOD * scene.savings:
            if time.monotonic() - began > PATIENCE:
                raise PagemergeError(f"the hub has not merged it in {PATIENCE:g} s")
            time.sleep(0.02)
        merged = time.monotonic() - began
        before, began = service.status().full_scans, time.monotonic()
        time.sleep(CYCLES)
        cycles = service.status().full_scans - before
        if not cycles:
            raise PagemergeError(f"the hub has ended no cycle in {CYCLES:g} s")
        return merged, (time.monotonic() - began) / cycles


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--callers", type=int, default=1000)
    parser.add_argument("--size", type=int, default=2048, help="MiB, of all processes together")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="of each kind")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.call:
        call(args.call, args.callers)
        return 0
    scene = Scene("clones", args.processes, (args.size << 20) // 4096 // args.processes)
    config = f'[service]\nengines = ["user"]\n{FAST}'
    with (
        terminable(),
        tempfile.TemporaryDirectory(prefix="pagemerge-bench-") as folder,
        Service(Path(folder) / "hub", config) as service,
    ):
        rounds = measure(service, scene, args)
    show(rounds, args.callers)
    return 0


def measure(service: Service, scene: Scene, args: argparse.Namespace) -> list[Round]:
    """Measure rounds, without and with callers by turns."""
    found = []
    argv = [sys.executable, __file__, "--call", str(service.socket.with_name("api.sock"))]
    argv += ["--callers", str(args.callers)]
    merge_seconds(service, scene)  # the first one fills caches
    for _ in range(args.rounds):
        found.append(Round(0, *merge_seconds(service, scene)))
        with subprocess.Popen(argv, stdin=-1, stdout=-1, text=True) as callers:
            assert callers.stdin and callers.stdout
            if callers.stdout.readline() != "there\n":
                raise PagemergeError("the callers cannot connect")
            watch, began = service.engine("watch"), time.monotonic()
            spent = stat(watch).cpu_seconds
            times = merge_seconds(service, scene)
            took = time.monotonic() - began
            spent = stat(watch).cpu_seconds - spent
            callers.stdin.close()
            replies = int(callers.stdout.read()) / took
            found.append(Round(args.callers, *times, replies, spent / took))
    return found


def show(rounds: list[Round], callers: int) -> None:
    """Print the ratios in words, all rounds, and the JSON."""
    ratios = {}
    for name in ("merge", "cycle"):
        alone, called = (
            statistics.median(getattr(it, name) for it in rounds if bool(it.callers) == with_them)
            for with_them in (False, True)
        )
        ratios[name] = round(called / alone, 3)
        print(
            f"A {name} takes {alone:.3f} s, and {called:.3f} s beside {callers:,} callers: ", end=""
        )
        print(f"{ratios[name]:.2f} times.")
    them = [it for it in rounds if it.callers]
    replies, watch = (
        statistics.median(getattr(it, name) for it in them) for name in ("replies", "watch")
    )
    print(
        f"They got {replies:,.0f} replies a second, for which the watch took {watch:.0%} of a core."
    )
    print(f"{'callers':>8}{'merge s':>9}{'cycle s':>9}")
    for it in rounds:
        print(f"{it.callers:>8,}{it.merge:>9.3f}{it.cycle:>9.4f}")
    print(json.dumps({"ratios": ratios, "rounds": [asdict(it) for it in rounds]}))


if __name__ == "__main__":
    sys.exit(main())
