"""How many guests a host carries: real QEMU guests in a memory cgroup, merged while they run.

Each guest touches all its memory: about 100 MB of files that all guests have, 16 MB of random
bytes, the rest zeros, and then writes a little every 30 s. The next guest starts as soon as the
cgroup has room for it. At the end every guest checks all its memory against checksums of its own.

The user engine runs the guests under ``pagemerge run``, its hub in the same cgroup, so that stable
pages count against the limit as well. The kernel's runs at pages_to_scan=20000,
sleep_millisecs=20. A table for people, then one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from lab import guest, hub
from tests.support import cgroup, ksm
from tests.support.ending import terminable

from pagemerge.errors import PagemergeError
from pagemerge.linux.accounts import available_bytes

COMMON_BYTES = 100 << 20
OWN_MIB = 16
GUEST_KERNEL_MIB = 64
"""What a guest needs for its kernel, and beside it an eighth of its memory: for the kernel's
records of pages and for what it keeps free."""
QEMU_BYTES = 128 << 20
"""What a guest takes beside its memory: QEMU and the code it translates to."""
ROOM_SECONDS = 900.0
"""Seconds without one more guest after which it is given up."""
BOOTING = 600.0
"""Seconds that a guest may take to boot and fill its memory, beside all the others."""
CHECKING = 1800.0
"""Seconds that checking all guests at the end may take."""
HUB_PERCENT = 20
"""Of a core, for the hub: booting guests need the processors more than it does."""
KERNEL_KNOBS = {"pages_to_scan": 20_000, "sleep_millisecs": 20}


@dataclass(frozen=True, slots=True)
class Engine:
    """Who merges; what it has cost and saved so far."""

    name: str
    prefix: Sequence[str]
    env: Mapping[str, str]
    cpu_seconds: Callable[[list[guest.Guest]], float]
    saved_pages: Callable[[], int]


@dataclass(slots=True)
class Run:
    """What came of one engine."""

    engine: str
    count: int
    accel: str
    memory_bytes: int
    limit_bytes: int
    ready: int = 0
    seconds: float = 0.0
    """Until the last guest was ready."""
    ready_at_seconds: tuple[float, ...] = ()
    used_bytes: int = 0
    """Charged to the cgroup at the end: guests, hub and stable pages."""
    saved_pages: int = 0
    cpu_seconds: float = 0.0
    """Of hub and agents, or of ksmd, until the last guest was ready."""
    alive: int = 0
    right: int = 0
    """Guests whose memory was what it should be, at the end."""
    trouble: str = ""


@contextlib.contextmanager
def user_engine(group: cgroup.Cgroup) -> Iterator[Engine]:
    """Our own, with its hub in the cgroup."""
    with hub.running(group.prefix(), cpu_percent=HUB_PERCENT) as own:

        def cpu(guests: list[guest.Guest]) -> float:
            return own.cpu_seconds() + hub.agents_cpu_seconds([it.pid for it in guests])

        def saved() -> int:
            status = own.status()
            return status.pages_sharing + status.zero_pages

        command = [sys.executable, "-m", "pagemerge", "run", "--engine", "user", "--"]
        yield Engine("user", [*group.prefix(), *command], own.environment(), cpu, saved)


@contextlib.contextmanager
def kernel_engine(group: cgroup.Cgroup) -> Iterator[Engine]:
    """Kernel KSM."""
    with ksm.borrowed() as kernel:
        spent = kernel.cpu_seconds()
        kernel.start(**KERNEL_KNOBS)

        def cpu(_: list[guest.Guest]) -> float:
            return kernel.cpu_seconds() - spent

        yield Engine("kernel", group.prefix(), dict(os.environ), cpu, lambda: kernel.sharing)


ENGINES = {"user": user_engine, "kernel": kernel_engine}


def carry(args: argparse.Namespace, name: str, booted: guest.Image) -> Run:
    """Start guests one after the other while there is room, and check them all."""
    memory = args.memory >> 20
    spare = (COMMON_BYTES >> 20) + OWN_MIB + GUEST_KERNEL_MIB + memory // 8
    size = guest.Size(memory, OWN_MIB, max(memory - spare, 1))
    run = Run(name, args.count, booted.accel[1].partition(",")[0], args.memory, args.limit)
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(cgroup.limited(args.limit))
        engine = stack.enter_context(ENGINES[name](group))
        guests: list[guest.Guest] = []
        began = time.monotonic()
        try:
            while run.ready < args.count and not stuck(run, began, args.room):
                while len(guests) < args.count and has_room(group, guests, args):
                    one = guest.Guest(booted, size, prefix=engine.prefix, env=engine.env)
                    guests.append(stack.enter_context(one))
                if note_ready(run, guests, began):
                    tell(run, group, engine)
                time.sleep(0.1)
            run.cpu_seconds = round(engine.cpu_seconds(guests), 2)
            run.used_bytes, run.saved_pages = group.used_bytes(), engine.saved_pages()
            check(run, guests)
        except PagemergeError as error:
            run.trouble = str(error)
        run.alive = sum(it.process.poll() is None for it in guests)
    return run


def has_room(group: cgroup.Cgroup, guests: list[guest.Guest], args: argparse.Namespace) -> bool:
    """May one more guest start: is there memory, beside what those that boot will yet take?"""
    booting = [it for it in guests if not it.ready]
    if len(booting) >= args.parallel:
        return False
    need = args.memory + QEMU_BYTES
    coming = sum(max(need - it.resident_bytes(), 0) for it in booting) + need
    room = min(group.limit_bytes - group.used_bytes(), available_bytes() or group.limit_bytes)
    return bool(coming <= room)


def note_ready(run: Run, guests: list[guest.Guest], began: float) -> bool:
    """See which guests have become ready."""
    seconds = round(time.monotonic() - began, 1)
    for one in guests:
        if not one.ready and one.is_ready():
            run.ready_at_seconds += (seconds,)
        elif not one.ready and time.monotonic() - one.began > BOOTING:
            raise PagemergeError(f"guest {one.pid} is not ready after {BOOTING:g} s", pid=one.pid)
        elif one.process.poll() is not None:
            raise PagemergeError(f"guest {one.pid} has ended", pid=one.pid)
    before, run.ready = run.ready, len(run.ready_at_seconds)
    run.seconds = run.ready_at_seconds[-1] if run.ready else 0.0
    return run.ready > before


def stuck(run: Run, began: float, patience: float) -> bool:
    """Has nothing become ready for too long?"""
    return time.monotonic() - began - run.seconds > patience


def check(run: Run, guests: list[guest.Guest]) -> None:
    """Have all guests check their memory, all at once."""
    deadline = time.monotonic() + CHECKING
    for one in guests:
        one.tell("check")
    for one in guests:
        one.hear("right", max(1.0, deadline - time.monotonic()))
        run.right += 1


def tell(run: Run, group: cgroup.Cgroup, engine: Engine) -> None:
    """One line of the table."""
    saved = engine.saved_pages() * 4096
    print(
        f"{engine.name:<8}{run.ready:4} guests ready after {run.seconds:8.1f} s, "
        f"{group.used_bytes() / 1e9:6.2f} GB in use, {saved / 1e9:6.2f} GB saved",
        flush=True,
    )


def size_of(text: str) -> int:
    """Bytes in words such as 64M and 16G."""
    units = {"M": 1 << 20, "G": 1 << 30}
    return int(float(text[:-1]) * units[text[-1].upper()])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--memory", type=size_of, default="512M", help="of each guest")
    parser.add_argument("--limit", type=size_of, default="2G", help="of the cgroup")
    parser.add_argument("--engine", choices=[*ENGINES, "both"], default="both")
    parser.add_argument(
        "--parallel",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="guests that may boot at once",
    )
    parser.add_argument("--room", type=float, default=ROOM_SECONDS, help="seconds to wait for room")
    args = parser.parse_args()
    runs: list[Run] = []
    with terminable(), guest.image(COMMON_BYTES) as booted:
        booted = guest.with_best_accel(booted)
        for name in ENGINES if args.engine == "both" else [args.engine]:
            if name == "kernel" and (reason := ksm.lacks()):
                print(f"kernel KSM is left out: {reason}", file=sys.stderr)
                continue
            runs.append(run := carry(args, name, booted))
            print(
                f"{name}: {run.ready} of {run.count} guests ready after {run.seconds:.0f} s, "
                f"{run.alive} alive, {run.right} right; {run.cpu_seconds:.1f} s of processor time; "
                f"{run.used_bytes / 1e9:.2f} GB of {run.limit_bytes / 1e9:.2f} GB in use"
                f"{chr(10) if run.trouble else ''}{run.trouble}",
                flush=True,
            )
    print(json.dumps({"cores": len(os.sched_getaffinity(0)), "runs": [asdict(it) for it in runs]}))
    return 0 if all(run.ready == run.right == run.count for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
