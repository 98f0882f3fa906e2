"""How many guests a host carries: real QEMU guests in a memory cgroup, merged while they run.

Each guest touches all its memory: about 100 MB of files that all guests have, 16 MB of random
bytes, the rest zeros, and then writes a little every 30 s. The next guest starts as soon as the
cgroup has room for it: for all that it will fill, beside what those that still boot will fill, and
beside what all others take when they wake up. At the end every guest checks all its memory against
checksums of its own, some at a time. A guest that is killed is counted, and the others go on; a
hub that is killed is started again.

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
from dataclasses import asdict, dataclass, field

from lab import guest, hub, parts
from tests.support import cgroup, ksm
from tests.support.ending import terminable

from pagemerge.errors import HubError, PagemergeError
from pagemerge.linux.accounts import available_bytes

COMMON_BYTES = 100 << 20
OWN_MIB = 16
GUEST_KERNEL_MIB = 64
"""What a guest needs for its kernel, and beside it an eighth of its memory: for the kernel's
records of pages and for what it keeps free."""
QEMU_BYTES = 128 << 20
"""What a guest takes beside its memory: QEMU and the code it translates to."""
WAKING_BYTES = 4 << 20
"""What a guest may take when it checks its memory, until that is merged again."""
RECORDS_SHARE = 256
"""The hub's records of a guest take at most one part in so many of the guest's memory."""
ROOM_SECONDS = 900.0
"""Seconds without one more guest after which it is given up."""
BOOTING = 600.0
"""Seconds that a guest may take to boot and fill its memory, beside all the others."""
CHECKING = 1800.0
"""Seconds that checking all guests at the end may take."""
SILENCE = 300.0
"""Seconds that one guest may take to check its memory."""
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
    saved_pages: Callable[[], int | None]
    """None if it does not answer."""
    mind: Callable[[], bool] = lambda: True
    """Starts it again if it has ended; false if that happened a moment ago."""
    deaths: Sequence[str] = ()
    """How it has ended before."""
    records_bytes: Callable[[], int] = lambda: 0
    """The memory of its records, a part of that."""
    peak_bytes: Callable[[], int] = lambda: 0
    """The most memory that it has had."""


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
    """Charged to the cgroup when the last guest was ready: guests, hub and stable pages."""
    parts_bytes: dict[str, int] = field(default_factory=dict)
    """What that consists of."""
    saved_pages: int | None = None
    merger_peak_bytes: int = 0
    """The most memory of the hub's own."""
    records_bytes: int = 0
    """The hub's records of all pages, when the last guest was ready."""
    cpu_seconds: float = 0.0
    """Of hub and agents, or of ksmd, until the last guest was ready."""
    alive: int = 0
    right: int = 0
    """Guests whose memory was what it should be, at the end."""
    lost: list[str] = field(default_factory=list)
    """Guests that were killed, or failed: number, and how."""
    hub_deaths: tuple[str, ...] = ()
    trouble: str = ""


@contextlib.contextmanager
def user_engine(group: cgroup.Cgroup) -> Iterator[Engine]:
    """Our own, with its hub in the cgroup."""
    with hub.running(group.prefix(), cpu_percent=HUB_PERCENT) as own:

        def cpu(guests: list[guest.Guest]) -> float:
            return own.cpu_seconds() + hub.agents_cpu_seconds([it.pid for it in guests])

        def saved() -> int | None:
            with contextlib.suppress(HubError):
                status = own.status()
                return status.pages_sharing + status.zero_pages
            return None

        def records() -> int:
            with contextlib.suppress(HubError):
                return own.status().metadata_bytes
            return 0

        def mind() -> bool:
            own.peak_bytes()
            own.cpu_seconds()
            own.revive()
            return own.answers()

        # All of QEMU's own memory as well: each has read the same kernel for its guest, say.
        command = [sys.executable, "-m", "pagemerge", "run", "--engine", "user", "--all", "--"]
        before = [*group.prefix(), *command]
        env = own.environment()
        yield Engine("user", before, env, cpu, saved, mind, own.deaths, records, own.peak_bytes)


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
            while run.ready + len(run.lost) < args.count and not stuck(run, began, args.room):
                works = engine.mind()
                while works and len(guests) < args.count and has_room(group, guests, args):
                    one = guest.Guest(booted, size, prefix=engine.prefix, env=engine.env)
                    guests.append(stack.enter_context(one))
                if note_ready(run, guests, began):
                    tell(run, group, engine)
                time.sleep(0.1)
            run.cpu_seconds = round(engine.cpu_seconds(guests), 2)
            run.used_bytes, run.saved_pages = group.used_bytes(), engine.saved_pages()
            run.records_bytes = engine.records_bytes()
            there = [it.pid for it in guests if not it.has_ended()]
            run.parts_bytes = parts.of_group(group, there, args.memory)
            check(run, guests, engine, args.checking)
        except PagemergeError as error:
            run.trouble = str(error)
        run.merger_peak_bytes, run.hub_deaths = engine.peak_bytes(), tuple(engine.deaths)
        run.alive = sum(not it.has_ended() for it in guests)
    return run


def has_room(group: cgroup.Cgroup, guests: list[guest.Guest], args: argparse.Namespace) -> bool:
    """May one more guest start: is there memory that nobody is going to take?

    Guests that boot will fill theirs, before any of it is merged. Those that are ready take a
    little when they wake up, and the hub needs records of the new one.
    """
    there = [it for it in guests if not it.has_ended()]
    booting = [it for it in there if not it.ready]
    if len(booting) >= args.parallel:
        return False
    need = args.memory + QEMU_BYTES + args.memory // RECORDS_SHARE
    coming = sum(max(need - it.resident_bytes(), 0) for it in booting) + need
    coming += len(there) * WAKING_BYTES
    room = min(group.limit_bytes - group.used_bytes(), available_bytes() or group.limit_bytes)
    return bool(coming <= room)


def note_ready(run: Run, guests: list[guest.Guest], began: float) -> bool:
    """See which guests have become ready, and which have ended."""
    seconds = round(time.monotonic() - began, 1)
    for number, one in enumerate(guests, 1):
        if one.lost:
            continue
        try:
            if one.has_ended():
                lose(run, number, one, hub.ending(one.process.returncode))
            elif not one.ready and one.is_ready():
                run.ready_at_seconds += (seconds,)
            elif not one.ready and time.monotonic() - one.began > BOOTING:
                lose(run, number, one, f"is not ready after {BOOTING:g} s")
        except PagemergeError as error:
            lose(run, number, one, str(error))
    before = run.ready
    run.ready = sum(it.ready and not it.lost for it in guests)
    run.seconds = run.ready_at_seconds[-1] if run.ready_at_seconds else 0.0
    return run.ready > before


def lose(run: Run, number: int, one: guest.Guest, how: str) -> None:
    """Count a guest as lost, and end it: its memory is for the others."""
    one.lost = True
    run.lost.append(f"guest {number} (process {one.pid}) {how}")
    print(run.lost[-1], flush=True)
    one.process.kill()


def stuck(run: Run, began: float, patience: float) -> bool:
    """Has nothing become ready for too long?"""
    return time.monotonic() - began - run.seconds > patience


def check(run: Run, guests: list[guest.Guest], engine: Engine, at_once: int) -> None:
    """Have the guests check their memory, ``at_once`` at a time."""
    deadline = time.monotonic() + CHECKING
    waiting = [(number, it) for number, it in enumerate(guests, 1) if it.ready and not it.lost]
    asked: dict[int, tuple[guest.Guest, float]] = {}
    while (waiting or asked) and time.monotonic() < deadline:
        engine.mind()
        try:
            while waiting and len(asked) < at_once:
                number, one = waiting.pop(0)
                asked[number] = one, time.monotonic() + SILENCE
                one.tell("check")
            for number, (one, until) in list(asked.items()):
                if one.is_heard("right"):
                    run.right += 1
                    del asked[number]
                elif time.monotonic() > until:
                    raise PagemergeError(f"has not checked its memory within {SILENCE:g} s")
        except PagemergeError as error:
            lose(run, number, one, str(error))
            del asked[number]
        time.sleep(0.1)
    run.ready = sum(it.ready and not it.lost for it in guests)


def tell(run: Run, group: cgroup.Cgroup, engine: Engine) -> None:
    """One line of the table."""
    saved = engine.saved_pages()
    words = "the hub does not answer" if saved is None else f"{saved * 4096 / 1e9:6.2f} GB saved"
    print(
        f"{engine.name:<8}{run.ready:4} guests ready after {run.seconds:8.1f} s, "
        f"{group.used_bytes() / 1e9:6.2f} GB in use, {words}",
        flush=True,
    )


def tell_parts(run: Run) -> None:
    """What the memory consists of, in all and for each guest."""
    for name, size in run.parts_bytes.items():
        each = size / max(run.ready, 1)
        print(f"{run.engine:<8}{size / 1e9:8.2f} GB{each / 1e6:8.1f} MB a guest: {name}")


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
    parser.add_argument(
        "--code", type=int, default=guest.CODE_MIB, help="MiB for code that QEMU translates"
    )
    parser.add_argument("--checking", type=int, default=8, help="guests that check at once")
    parser.add_argument("--room", type=float, default=ROOM_SECONDS, help="seconds to wait for room")
    args = parser.parse_args()
    runs: list[Run] = []
    with terminable(), guest.image(COMMON_BYTES) as booted:
        booted = guest.with_best_accel(booted, args.code)
        for name in ENGINES if args.engine == "both" else [args.engine]:
            if name == "kernel" and (reason := ksm.lacks()):
                print(f"kernel KSM is left out: {reason}", file=sys.stderr)
                continue
            runs.append(run := carry(args, name, booted))
            tell_parts(run)
            print(
                f"{name}: {run.ready} of {run.count} guests ready after {run.seconds:.0f} s, "
                f"{run.alive} alive, {run.right} right; {run.cpu_seconds:.1f} s of processor time; "
                f"{run.used_bytes / 1e9:.2f} GB of {run.limit_bytes / 1e9:.2f} GB in use, "
                f"{run.merger_peak_bytes / 1e6:.0f} MB at most by the hub itself "
                f"(records {run.records_bytes / 1e6:.1f} MB); "
                f"{len(run.lost)} guests and {len(run.hub_deaths)} hubs lost"
                f"{chr(10) if run.trouble else ''}{run.trouble}",
                flush=True,
            )
    print(json.dumps({"cores": len(os.sched_getaffinity(0)), "runs": [asdict(it) for it in runs]}))
    return 0 if all(run.ready == run.right == run.count for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
