"""``python -m tests.fuzz --messages 1000000`` (``make fuzz``): see what a hub bears.

Exit status: 0 all is well, 1 something was wrong, or somebody waited too long.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.fuzz import report
from tests.fuzz.campaign import Campaign, room_for_descriptors


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--phase", type=float, default=10.0, help="seconds between two looks")
    parser.add_argument("--only", default="", help="nothing but this act")
    parser.add_argument("--report", type=Path, help="replace the section of this page")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all children end
    room_for_descriptors()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with (
        tempfile.TemporaryDirectory(prefix="pagemerge-fuzz-") as folder,
        Campaign(Path(folder), args.seed, say) as campaign,
    ):
        result = campaign.run(args.messages, args.phase, args.only)
    if args.report is not None:
        report.write(args.report, result, args.messages)
    print(report.told(result))
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
