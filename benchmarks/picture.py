"""The picture of the README: one run of ``pagemerge demo --json``, drawn as two bars.

Runs the demo and prints its figures as one line of JSON. With ``--into FOLDER`` it also writes
``demo.json`` there (the figures, the command and the kernel) and ``demo.svg``, which is drawn from
that file alone. The picture follows the reader's light or dark colours, and needs no font of its
own. ``--from FILE`` draws the figures of an earlier run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab.demo_picture import drawn

COMMAND = ["pagemerge", "demo", "--json"]
PATIENCE = 300.0
"""Seconds that the demo may take."""


def measure() -> dict[str, Any]:
    """Run the demo; its figures, with what ran it. Raises ``CalledProcessError`` if it fails."""
    argv = [sys.executable, "-m", *COMMAND]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, timeout=PATIENCE)
    return {
        "command": " ".join(COMMAND),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "figures": json.loads(done.stdout),
    }


def main() -> None:
    """Measure or read, print, and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="where demo.json and demo.svg go"
    )
    parser.add_argument(
        "--from", dest="file", type=Path, metavar="FILE", help="draw this run again"
    )
    args = parser.parse_args()
    run = json.loads(args.file.read_text()) if args.file else measure()
    if args.into:
        (args.into / "demo.json").write_text(json.dumps(run, indent=2) + "\n")
        (args.into / "demo.svg").write_text(drawn(run))
    print(json.dumps(run))


if __name__ == "__main__":
    main()
