"""``python -m tests.images_fuzz --inputs 1000000`` (``make fuzz-images``): damage memory images.

Exit status: 0 all is well, 1 an input raised something else than an error of pagemerge, took more
than 64 MB or more than a second.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.images_fuzz.campaign import Campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.images_fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    campaign, began = Campaign(args.seed), time.monotonic()
    result = campaign.run(args.inputs, every=50_000)
    campaign.close()
    refused = ", ".join(f"{count} {name}" for name, count in result.refused.most_common())
    print(
        f"{result.inputs} inputs with seed {args.seed} in {time.monotonic() - began:.0f} s: "
        f"{result.opened} opened ({result.noted} with a note), refused: {refused}; the slowest "
        f"took {result.slowest_seconds:.3f} s, the most memory was {result.most_bytes >> 10} KiB"
    )
    for fault in result.faults:
        print(fault)
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
