"""What drives ksmd best: five policies on the same workload, one after the other.

Four processes arrive, load data of which they share 40%, go quiet, rewrite some, change half of
what they share, and leave, within three minutes (lab/play.py, lab/tenant.py). They opt in to
kernel KSM by themselves, so that policies differ in driving ksmd only:

- defaults: ksmd as the kernel starts it (100 pages, 20 ms);
- flat-out: as fast as it can (100,000 pages, no sleep);
- advisor: the kernel's scan-time advisor, at its defaults;
- ksmtuned: the algorithm of ksmtuned with its published parameters, told that the host has an
  eighth less memory than the processes, so that it starts (lab/policies.py);
- governor: ``pagemerge daemon --engine kernel``, its own processor time included.

Measured are bytes saved over time, by the accounts of a memory cgroup (lab/trace.py says why not
by KSM's counters), and processor time of ksmd and of who drives it. At the end each process checks
all its memory. A table for people, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lab import trace
from lab.play import LENGTH, TENANTS, Workload, play
from lab.policies import POLICIES, Options, governor_lacks
from tests.support import ksm
from tests.support.cgroup import limited

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux.accounts import available_bytes
from pagemerge.model import PAGE_SIZE

SHORT = 30.0
"""Seconds of the workload with --short, which is for trying."""
SHORT_MIB = 128
SIZE_MIB = 512
ROOM = 1.25
"""Available memory that is needed, in sizes of the workload."""
NEAR = 0.9
"""Share of what flat out saves from which on a policy has got there."""
LATE = 1.0
"""Seconds that steps may be late before figures are not to be compared."""


@dataclass(slots=True)
class Result:
    """What one policy has saved, and what it took."""

    policy: str
    saved_byte_seconds: float = 0.0
    counted_byte_seconds: float = 0.0
    """The same by KSM's counters, which lag while ksmd stands."""
    peak_saved_bytes: int = 0
    cpu_seconds: float = 0.0
    ksmd_cpu_seconds: float = 0.0
    policy_cpu_seconds: float = 0.0
    full_scans: int = 0
    pages_scanned: int = 0
    reached_seconds: dict[str, float | None] = field(default_factory=dict)
    """From each step until 90% of what flat out saves in the end; None: not before the next."""
    saved_share: float | None = None
    """Of flat out's byte-seconds."""
    cpu_share: float | None = None
    """Of flat out's processor time."""
    checked: int = 0
    wrong_pages: int = 0
    late_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    curve: list[tuple[float, int]] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Has every process checked its memory, and were all knobs put back?"""
        left = any(note.startswith("WRONG") for note in self.notes)
        return self.checked == TENANTS and not self.wrong_pages and not left


def measure(kernel: ksm.Ksm, name: str, workload: Workload, args: argparse.Namespace) -> Result:
    """Play the workload under one policy."""
    total = TENANTS * workload.pages * PAGE_SIZE
    options = Options(total, LENGTH / workload.length, args.config, args.trace)
    with limited(2 * total) as group, POLICIES[name](kernel, options) as driver:
        recorder = trace.Recorder(kernel, group, driver.observe, driver.cpu_seconds)
        with recorder:
            outcome = play(workload, recorder)
        recorder.samples.append(recorder.now())
    kernel.forget()
    if args.trace:
        trace.write(args.trace / f"{name}.jsonl", recorder.samples)
    first, last = recorder.samples[0], recorder.samples[-1]
    curve = [(it.seconds, it.saved_bytes) for it in recorder.samples]
    counted = [(it.seconds, it.counted_bytes) for it in recorder.samples]
    return Result(
        policy=name,
        saved_byte_seconds=trace.byte_seconds(curve),
        counted_byte_seconds=trace.byte_seconds(counted),
        peak_saved_bytes=max(size for _, size in curve),
        cpu_seconds=round(last.ksmd_cpu_seconds + last.policy_cpu_seconds, 2),
        ksmd_cpu_seconds=last.ksmd_cpu_seconds,
        policy_cpu_seconds=last.policy_cpu_seconds,
        full_scans=int(last.ksm["full_scans"]) - int(first.ksm["full_scans"]),
        pages_scanned=int(last.ksm["pages_scanned"]) - int(first.ksm["pages_scanned"]),
        checked=outcome.checked,
        wrong_pages=outcome.wrong_pages,
        late_seconds=outcome.late_seconds,
        notes=driver.notes,
        curve=curve,
    )


def compare(results: list[Result], workload: Workload) -> None:
    """Fill in what is told by comparison with flat out, if that was measured."""
    flat = next((it for it in results if it.policy == "flat-out"), None)
    if flat is None:
        return
    for step, end in workload.windows():
        level = [size for at, size in flat.curve if step.at <= at < end][-1]
        for it in results:
            reached = trace.reaches(it.curve, NEAR * level, step.at, end)
            it.reached_seconds[step.name] = None if reached is None else round(reached, 2)
    for it in results:
        it.saved_share = round(it.saved_byte_seconds / flat.saved_byte_seconds, 4)
        it.cpu_share = round(it.cpu_seconds / flat.cpu_seconds, 4)


def show(results: list[Result]) -> None:
    """The table."""
    steps = list(results[0].reached_seconds)
    print(
        f"{'':<10}{'saved':>12}{'peak':>10}{'processor':>12}{'of it ksmd':>12}{'scans':>7}", end=""
    )
    print("".join(f"{name:>12}" for name in steps))
    for it in results:
        print(
            f"{it.policy:<10}{it.saved_byte_seconds / 1e9:8.1f} GB s"
            f"{it.peak_saved_bytes / 1e6:7.0f} MB{it.cpu_seconds:10.2f} s"
            f"{it.ksmd_cpu_seconds:10.2f} s{it.full_scans:7}",
            end="",
        )
        print("".join(f"{_seconds(it.reached_seconds[name]):>12}" for name in steps))
    if steps:
        print(f"(in columns of steps: seconds until {NEAR:.0%} of what flat out saves)")


def verdicts(results: list[Result]) -> list[str]:
    """In words: what each policy is worth."""
    said = []
    for it in results:
        if it.saved_share is not None and it.cpu_share is not None and it.policy != "flat-out":
            said.append(
                f"{it.policy}: {it.saved_share:.1%} of flat out's byte-seconds saved, "
                f"with {it.cpu_share:.1%} of its processor time"
            )
        said += [f"{it.policy}: {note}" for note in it.notes]
        if it.wrong_pages or it.checked < TENANTS:
            said.append(
                f"{it.policy}: {it.wrong_pages} WRONG PAGES, {it.checked} of {TENANTS} checked"
            )
        if it.late_seconds > LATE:
            said.append(
                f"{it.policy}: a step was {it.late_seconds:.1f} s late: the host is busy, "
                "and the figures are not to be compared"
            )
    own = next((it for it in results if it.policy == "governor"), None)
    for it in results if own else ():
        if own and it.policy in ("defaults", "ksmtuned", "advisor"):
            said.append(f"governor: {_beside(own, it)} {it.policy}")
    return said


def _beside(own: Result, other: Result) -> str:
    saves = "more" if own.saved_byte_seconds > other.saved_byte_seconds else "LESS"
    costs = "less" if own.cpu_seconds < other.cpu_seconds else "MORE"
    return f"saves {saves}, and takes {costs} processor time, than"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policies", nargs="+", choices=POLICIES, help="all that there are")
    parser.add_argument("--short", action="store_true", help=f"{SHORT:g} s each, for trying")
    parser.add_argument("--size", type=int, help=f"MiB of each process ({SIZE_MIB})")
    parser.add_argument("--config", type=Path, help="the governor's; without: its defaults")
    parser.add_argument(
        "--trace", type=Path, metavar="FOLDER", help="write all samples there, a file a policy"
    )
    args = parser.parse_args()
    args.size = args.size or (SHORT_MIB if args.short else SIZE_MIB)
    if args.size < 1:
        parser.error("--size: each process needs memory")
    if args.trace:
        args.trace.mkdir(parents=True, exist_ok=True)
    return args


def room_for(size: int) -> None:
    """Raise ``Unsupported`` unless ``size`` bytes are there, and some more."""
    have = available_bytes()
    if have is not None and have < ROOM * size:
        raise Unsupported(
            f"{ROOM * size / 1e9:.1f} GB of memory are needed and {have / 1e9:.1f} GB available: "
            "give a smaller --size"
        )


def main() -> int:
    """Measure and print."""
    args = arguments()
    workload = Workload.of(args.size * 2**20 // PAGE_SIZE, SHORT if args.short else LENGTH)
    results: list[Result] = []
    try:
        room_for(TENANTS * args.size << 20)
        with ksm.borrowed() as kernel:
            for name in args.policies or POLICIES:
                if name == "governor" and (reason := governor_lacks()):
                    print(f"governor is left out: {reason}", file=sys.stderr)
                    continue
                results.append(it := measure(kernel, name, workload, args))
                saved, cpu = it.saved_byte_seconds / 1e9, it.cpu_seconds
                print(f"{name}: {saved:.1f} GB s, {cpu:.2f} s", file=sys.stderr, flush=True)
    except PagemergeError as error:
        print(f"governor.py: {error}", file=sys.stderr)
        return error.exit_status
    compare(results, workload)
    if results:
        show(results)
    for line in verdicts(results):
        print(line)
    figures = {
        "processes": TENANTS,
        "bytes": TENANTS * args.size << 20,
        "seconds": workload.length,
        "cores": len(os.sched_getaffinity(0)),
        "results": [asdict(replace(it, curve=[])) for it in results],
    }
    print(json.dumps(figures))
    return 0 if all(it.right for it in results) else 1


if __name__ == "__main__":
    sys.exit(main())
