"""What merging does to the latency of programs beside it, and of a program that is merged.

Eight processes hold equal memory. A service answers requests on the same cores:

- redis: redis-server, GET of 100 bytes; it has nothing to do with the merging;
- http: a Python HTTP service, which reads some pages of memory that nobody merges;
- inside: the same service in one of the processes whose memory is merged, reading that memory.

A client in a process of its own, also on the same cores, sends requests at planned times
(lab/openloop.py), so that a service that stands still is seen to do so. With ``--closed``, 8
connections send as fast as they get answers instead: the rate counts, and not the times.

In each round, each engine merges the memory once, in fresh processes, in an order that turns from
round to round. Requests count that were planned between the beginning of the merging and its end,
or the end of the window if the engine needs longer. Where nobody merges, all count. ``ratio`` is
the figure over that of ``nobody`` in the same round: geometric mean, and its 95% interval by
Student's t over the rounds. If at least two rounds were quiet (other programs kept less than 0.2
processors busy), the others are left out of the ratio.

A table for people, a line of JSON, and with ``--into`` the JSON and a picture of the ratios
(``neighbours.json`` and ``.svg``, ``neighbours-closed.json`` and ``.svg`` with ``--closed``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import exp, log, sqrt
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
from lab import openloop
from lab.calm import SIDES, Merging, is_done
from lab.latency_picture import drawn
from lab.loads import needs
from lab.others import Others
from lab.scene import Scene
from tests.support import ksm
from tests.support.ending import terminable

from pagemerge.demo.dialog import Child, ask_all, end
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.model import PAGE_SIZE

SERVICES = ("redis", "http", "inside")
CONNECTIONS = 8
RATES = {"redis": 1000.0, "http": 250.0, "inside": 250.0}
"""Requests a second: a small part of what each service could do."""
MARKS = (50, 99, 99.9, 100)
FEW = 0.2
"""Processors that other programs may keep busy in a round that counts as quiet."""
FEWEST = 20
"""Requests of a round that must have been planned while it merged."""
CALM = 0.3
"""Seconds from the first request to the beginning of the merging."""
FIGURES = ("p50_us", "p99_us", "p999_us", "rate")
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t for 95%, with 1 to 9 degrees of freedom; 2 for more."""


@dataclass(frozen=True, slots=True)
class Result:
    """One round of one service beside one engine."""

    service: str
    engine: str
    round: int
    requests: int
    p50_us: float
    p99_us: float
    p999_us: float
    worst_us: float
    rate: float
    """Answers a second."""
    merging_seconds: float
    """Until all was merged, or until the window was over; 0 where nobody merges."""
    saved_bytes: int
    wrong_pages: int
    others_cores: float
    """Processors that other programs of the host kept busy meanwhile."""


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A server at a Unix socket with one key; yields the path."""
    needs("redis-server", "redis-server")
    path = str(folder / "redis.sock")
    argv = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        said = ["redis-cli", "-s", path, "set", "key", "v" * 100]
        while subprocess.run(said, capture_output=True, check=False).stdout != b"OK\n":
            if time.monotonic() > deadline or server.poll() is not None:
                raise PagemergeError("redis-server does not answer")
            time.sleep(0.05)
        yield path
    finally:
        server.terminate()
        end(server)


@contextlib.contextmanager
def serving(service: str, merging: Merging) -> Iterator[tuple[str | list[str | int], str]]:
    """Start a service; yields its address and the request."""
    http = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        if service == "redis":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pagemerge-bench-"))
            yield stack.enter_context(redis(Path(folder))), "GET key\r\n"
            return
        child = merging.children[0]
        if service == "http":
            argv = [sys.executable, "-m", "lab.serving", str(os.getpid())]
            child = stack.enter_context(Child(argv))
            child.ask("open", engine="none", scene="clones", index=0, pages=16 * 512)
            child.ask("fill")
        yield ["127.0.0.1", child.ask("listen")["port"]], http


def measure(
    service: str, engine: str, number: int, args: argparse.Namespace, kernel: ksm.Ksm | None
) -> Result:
    """One round of one engine."""
    pages = args.size * 2**20 // PAGE_SIZE // args.processes
    scene = Scene("clones", args.processes, pages)
    others = Others(kernel)
    with (
        SIDES[engine](scene, kernel) as merging,
        serving(service, merging) as (address, request),
        Child([sys.executable, openloop.__file__, str(os.getpid())]) as client,
    ):
        client.ask("connect", address=address, request=request, connections=CONNECTIONS)
        others.wait(FEW, args.quiet)
        rate = 0.0 if args.closed else args.rate or RATES[service]
        client.question("run", seconds=args.seconds, rate=rate)
        last = time.monotonic() + args.seconds
        time.sleep(CALM)
        begun = over = time.monotonic()
        merging.begin()
        while engine != "nobody" and (over := time.monotonic()) < last:
            if is_done(scene, merging):
                break
            time.sleep(0.02)
        answer = client.answer(args.seconds + 3 * openloop.LATE)
        busy = others.cores()
        saved = merging.saved_pages()
        wrong = sum(it["wrong"] for it in ask_all(merging.children, "check"))
    if answer["missing"]:
        raise PagemergeError(f"{answer['missing']} requests to {service} had no answer")
    planned, took = np.array(answer["planned"]), np.array(answer["microseconds"], float)
    behind = last if engine == "nobody" else over
    chosen = took[(planned >= begun) & (planned < behind)]
    if len(chosen) < FEWEST:
        raise PagemergeError(
            f"{engine} merged all in {over - begun:.2f} s, in which only {len(chosen)} requests "
            "came: give more memory (--size)"
        )
    p50, p99, p999, worst = (round(float(it), 1) for it in np.percentile(chosen, MARKS))
    return Result(
        service=service,
        engine=engine,
        round=number,
        requests=len(chosen),
        p50_us=p50,
        p99_us=p99,
        p999_us=p999,
        worst_us=worst,
        rate=round(len(chosen) / (behind - begun), 1),
        merging_seconds=0.0 if engine == "nobody" else round(over - begun, 2),
        saved_bytes=saved * PAGE_SIZE,
        wrong_pages=wrong,
        others_cores=round(busy, 2),
    )


def compared(rows: list[Result]) -> list[dict[str, Any]]:
    """Each service and engine: medians over the rounds, and ratios to ``nobody`` with intervals."""
    found = []
    for service, engine in dict.fromkeys((it.service, it.engine) for it in rows):
        mine = [it for it in rows if (it.service, it.engine) == (service, engine)]
        row: dict[str, Any] = {"service": service, "engine": engine, "rounds": len(mine)}
        for name in (*FIGURES, "worst_us", "merging_seconds", "saved_bytes"):
            row[name] = round(median(getattr(it, name) for it in mine), 2)
        bare = {it.round: it for it in rows if (it.service, it.engine) == (service, "nobody")}
        pairs = [(it, bare[it.round]) for it in mine if it.round in bare]
        quiet = [it for it in pairs if max(one.others_cores for one in it) < FEW]
        row["quiet_rounds"] = len(quiet)
        pairs = quiet if len(quiet) > 1 else pairs
        for name in FIGURES:
            ratios = [log(getattr(a, name) / getattr(b, name)) for a, b in pairs]
            row[name + "_ratio"] = interval(ratios)
        found.append(row)
    return found


def interval(logs: list[float]) -> list[float]:
    """Geometric mean and its 95% interval; the mean alone where there is one round."""
    if len(logs) < 2:
        return [round(exp(it), 3) for it in logs]
    freedom = len(logs) - 1
    t = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 2.0
    half, middle = t * stdev(logs) / sqrt(len(logs)), mean(logs)
    return [round(exp(it), 3) for it in (middle, middle - half, middle + half)]


def show(told: dict[str, Any]) -> None:
    """The table."""
    figure, title = ("rate", "rate") if told["closed"] else ("p99_us", "p99")
    print(
        f"{'service':<9}{'engine':<18}{'p50':>9}{'p99':>10}{'p99.9':>10}{'rate':>9}"
        f"{'merged in':>11}{'quiet':>8}   {title} / nobody"
    )
    for it in told["compared"]:
        ratio = it[figure + "_ratio"]
        span = f" ({ratio[1]:.2f} to {ratio[2]:.2f})" if len(ratio) == 3 else ""
        ratios = f"{ratio[0]:.2f}{span}" if ratio else ""
        print(
            f"{it['service']:<9}{it['engine']:<18}{it['p50_us']:6.0f} us{it['p99_us']:7.0f} us"
            f"{it['p999_us']:7.0f} us{it['rate']:7.0f}/s{it['merging_seconds']:9.1f} s"
            f"{it['quiet_rounds']:4}/{it['rounds']:<3}   {ratios}"
        )


def run(args: argparse.Namespace) -> list[Result]:
    """All rounds. Raises ``PagemergeError``."""
    rows: list[Result] = []
    reason = ksm.lacks() if any(it.startswith(("ksmd", "governor")) for it in args.engine) else "-"
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminable())
        kernel = None if reason else stack.enter_context(ksm.borrowed())
        engines = args.engine
        for service in args.service:
            for number in range(args.rounds):
                turn = number % len(engines)
                for engine in engines[turn:] + engines[:turn]:
                    try:
                        rows.append(measure(service, engine, number, args, kernel))
                    except Unsupported as lack:
                        print(f"{service}, {engine} is left out: {lack}", file=sys.stderr)
                        continue
                    it = rows[-1]
                    print(
                        f"{service} {number} {engine}: p50 {it.p50_us:.0f} p99 {it.p99_us:.0f} "
                        f"p99.9 {it.p999_us:.0f} worst {it.worst_us:.0f} us, "
                        f"{it.saved_bytes / 1e6:.0f} MB in {it.merging_seconds:.2f} s",
                        file=sys.stderr,
                    )
    return rows


def main() -> int:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="MiB, of all processes together")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round (default 10)")
    parser.add_argument(
        "--quiet",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait so long at most until other programs rest, before each round (default: 0)",
    )
    parser.add_argument("--rate", type=float, help="requests a second")
    parser.add_argument("--closed", action="store_true", help="as many requests as are answered")
    parser.add_argument("--service", action="append", choices=SERVICES, help="repeatable")
    parser.add_argument("--engine", action="append", choices=SIDES, help="repeatable")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="where JSON and picture go")
    parser.add_argument("--from", dest="file", type=Path, metavar="FILE", help="draw this run")
    args = parser.parse_args()
    args.service, args.engine = args.service or list(SERVICES), args.engine or list(SIDES)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    if args.file:
        told = json.loads(args.file.read_text())
    else:
        try:
            rows = run(args)
        except PagemergeError as error:
            print(f"neighbours: {error}", file=sys.stderr)
            return error.exit_status
        told = {
            "bytes": args.size * 2**20,
            "processes": args.processes,
            "cores": len(os.sched_getaffinity(0)),
            "kernel": os.uname().release,
            "closed": args.closed,
            "load": os.getloadavg()[1],
            "compared": compared(rows),
            "rounds": [asdict(it) for it in rows],
        }
    show(told)
    print(json.dumps(told))
    if args.into:
        name = "neighbours-closed" if told["closed"] else "neighbours"
        (args.into / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
        (args.into / f"{name}.svg").write_text(drawn(told))
    return 1 if any(it["wrong_pages"] for it in told["rounds"]) else 0


if __name__ == "__main__":
    sys.exit(main())
