"""``python -m tests.soak``: a long hostile run of the user engine.

Processes with known contents come and go, are merged, forked, stopped and killed, and so are hubs.
Exit status: 0 all is well, 1 something was wrong or leaked, 77 this host cannot do it.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from pathlib import Path

from pagemerge.errors import PagemergeError
from tests.conftest import lacks_uffd
from tests.soak import report
from tests.soak.soak import Soak

EVERY = 10.0
"""Seconds between two lines of progress."""


class Progress:
    """Says how it goes, and faults at once."""

    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, line: str) -> None:
        if line.startswith("FAULT") or time.monotonic() - self._said >= EVERY:
            print(line, file=sys.stderr, flush=True)
            self._said = time.monotonic()


def arguments(argv: list[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default 30)")
    parser.add_argument("--seed", type=int, help="of the plan (default: drawn)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--report", type=Path, help="write the Markdown report there")
    parser.add_argument("--inject", choices=["byte", "stay"], default="", help=argparse.SUPPRESS)
    parser.add_argument("--patience", type=float, default=40.0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> int:
    """Run it."""
    args = arguments(sys.argv[1:])
    seed = random.randrange(10**6) if args.seed is None else args.seed
    reason = lacks_uffd()
    barriers = ["park"] if reason else ["move", "write-protect", "park"]
    if reason:
        print(f"only the barrier park is tried here: {reason}", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"seed {seed}, {args.minutes:g} minutes", file=sys.stderr, flush=True)
    try:
        with Soak(Progress(), args.inject, args.patience) as soak:
            result = soak.run(seed, args.minutes * 60, barriers)
    except PagemergeError as error:
        print(f"soak: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 130
    if args.report is not None:
        command = f'make soak ARGS="--minutes {args.minutes:g} --seed {seed}"'
        report.put(args.report, report.markdown(result, command))
    if args.json:
        print(report.as_json(result))
    else:
        print("\n".join([*result.faults, report.verdict(result)]))
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
