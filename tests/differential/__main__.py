"""``python -m tests.differential``: random memory calls, bare and merged; both must say the same.

Exit status: 0 no difference, 1 there was one or nothing was merged, 77 this host cannot do it.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import lacks_cc, lacks_uffd
from tests.differential import report
from tests.differential.campaign import Campaign, Result, drawn
from tests.differential.program import load
from tests.support.hubs import Hub

CONFIG = """[hub]
looks = 1
cpu_percent = 100
idle_percent = 100
longest_hold = 0
longest_pause = 0.02
"""
PAGEMERGE = [sys.executable, "-m", "pagemerge"]
EVERY = 10.0
"""Seconds between two lines of progress."""


def arguments(argv: list[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000, help="how many (default 10^6)")
    parser.add_argument("--minutes", type=float, help="end after so long at the latest")
    parser.add_argument("--seed", type=int, help="of the programs (default: drawn)")
    parser.add_argument(
        "--barrier", choices=["move", "write-protect", "park", "auto", "each"], default="each"
    )
    parser.add_argument("--all", action="store_true", help="mark nothing, and merge everything")
    parser.add_argument("--pairs", type=int, default=6, help="pairs of processes at a time")
    parser.add_argument("--replay", type=Path, nargs="*", help="run these programs instead")
    parser.add_argument("--keep", type=Path, help="keep what differs in this folder, as programs")
    parser.add_argument("--findings", type=Path, help="write programs that differ there")
    parser.add_argument("--most", type=int, default=40, help="findings that are looked into")
    parser.add_argument(
        "--shrink-minutes", type=float, default=10, help="time to make what differs small"
    )
    parser.add_argument("--quiet-ms", type=int, default=60, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help="put the result into this Markdown page")
    return parser.parse_args(argv)


class Progress:
    """Says how it goes, and findings at once."""

    def __init__(self, findings: Path | None) -> None:
        self._said, self._findings = time.monotonic(), findings
        if findings:
            findings.write_text("")

    def finding(self, text: str) -> None:
        """Print it, and keep it."""
        print(text, file=sys.stderr, flush=True)
        if self._findings:
            with self._findings.open("a") as out:
                out.write(text + "\n\n")

    def tell(self, result: Result) -> None:
        """A line now and then."""
        if time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            row = ", ".join(f"{it} {name}" for name, it in result.counts.items())
            print(f"{row}, {len(result.findings)} findings", file=sys.stderr, flush=True)


def main() -> int:
    """Run it."""
    args = arguments(sys.argv[1:])
    if reason := lacks_cc() or lacks_uffd():
        print(f"differential: {reason}", file=sys.stderr)
        return 77
    seed = random.randrange(10**6) if args.seed is None else args.seed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    progress = Progress(args.findings)
    barriers = ["move", "write-protect"] if args.barrier == "each" else [args.barrier]
    results: dict[str, Result] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pagemerge-diff-") as name:
        folder = Path(name)
        for number, barrier in enumerate(barriers, 1):
            with Hub(folder / f"hub-{barrier}", CONFIG) as hub:
                campaign = Campaign(
                    hub.socket,
                    folder,
                    barrier,
                    PAGEMERGE,
                    args.pairs,
                    progress.finding,
                    args.quiet_ms,
                    args.most,
                    everything=args.all,
                )
                limit = args.calls // len(barriers)
                until = began + (args.minutes or 10**6) * 60 * number / len(barriers)

                def end(result: Result, limit: int = limit, until: float = until) -> bool:
                    progress.tell(result)
                    return result.counts["calls"] >= limit or time.monotonic() > until

                try:
                    programs = drawn(seed)
                    if args.replay:
                        programs = ((str(it.name), load(it)) for it in args.replay)
                    results[barrier] = campaign.run(programs, end)
                    campaign.examine(time.monotonic() + args.shrink_minutes * 60)
                finally:
                    campaign.close()
    print(report.verdict(seed, results))
    if args.keep:
        for result in results.values():
            report.keep(args.keep, result)
    if args.report:
        report.write(args.report, seed, results, args.calls)
    return 1 if any(it.faults for it in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
