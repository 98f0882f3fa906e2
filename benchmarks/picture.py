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
from xml.sax.saxutils import escape

COMMAND = ["pagemerge", "demo", "--json"]
PATIENCE = 300.0
"""Seconds that the demo may take."""

WIDTH, HEIGHT, MARGIN = 880, 444, 40
BAR = 70
"""Height of a bar."""
FIRST_BAR, SECOND_BAR = 136, 262
"""Where the bars begin, from above."""
GAP = 2
"""Between two parts of a bar."""

STYLE = """
    text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
    .ground { fill: #ffffff; } .text { fill: #1f2328; } .note { fill: #57606a; }
    .data { fill: #1f6feb; } .store { fill: #8250df; }
    .on-data, .on-store { fill: #ffffff; }
    .own { fill: #d0d7de; } .on-own { fill: #1f2328; }
    .saved { fill: none; stroke: #1a7f37; stroke-width: 2; stroke-dasharray: 7 5; }
    .on-saved { fill: #1a7f37; }
    @media (prefers-color-scheme: dark) {
      .ground { fill: #0d1117; } .text { fill: #e6edf3; } .note { fill: #9da7b3; }
      .own { fill: #3d444d; } .on-own { fill: #e6edf3; }
      .saved { stroke: #3fb950; } .on-saved { fill: #3fb950; }
    }
"""


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


def drawn(run: dict[str, Any]) -> str:
    """The picture of a run, as SVG."""
    told = run["figures"]
    before, after, saved = told["before_bytes"], told["after_bytes"], told["saved_bytes"]
    pss, store = told["after"]["pss_bytes"], told["after"]["store_bytes"]
    workers, loaded = told["workers"], told["loaded_bytes"]
    scale = (WIDTH - 2 * MARGIN) / before

    heading = f"{workers} processes load the same {size(loaded)} of files"
    means = "pagemerge demo, before and after merging. Each process keeps on writing meanwhile."
    parts = [
        text(MARGIN, 50, 26, heading, bold=True),
        text(MARGIN, 80, 17, means, "note"),
        text(MARGIN, FIRST_BAR - 12, 20, f"Before: {size(before)}", bold=True),
        text(MARGIN, SECOND_BAR - 12, 20, f"After: {size(after)}", bold=True),
    ]
    place = float(MARGIN)
    for number in range(1, workers + 1):
        parts += part("data", place, FIRST_BAR, loaded * scale, size(loaded), f"process {number}")
        place += loaded * scale
    own = before - workers * loaded
    parts += part("own", place, FIRST_BAR, own * scale, size(own), "data of their own")
    place = float(MARGIN)
    for kind, count, what, why in (
        ("store", store, size(store), "one copy"),
        ("own", pss, size(pss), "data of their own"),
        ("saved", saved, f"{size(saved)} saved", f"{saved / before:.0%} of {size(before)}"),
    ):
        parts += part(kind, place, SECOND_BAR, count * scale, what, why)
        place += count * scale

    kernel = ".".join(run["kernel"].split("-")[0].split(".")[:2])
    notes = (
        f"Measured by the kernel ({kernel}). PSS of the {workers} processes: "
        f"{size(told['before']['pss_bytes'])} before, {size(pss)} after.",
        f"The store, which holds the one copy: {size(told['before']['store_bytes'])} before, "
        f"{size(store)} after.",
        f"Checked afterwards: {told['changed_pages']:,} pages with a wrong byte, "
        f"{told['lost_writes']:,} of {told['writes']:,} page writes lost.",
    )
    parts += [text(MARGIN, 368 + 26 * row, 16, note, "note") for row, note in enumerate(notes)]
    title = f"Before merging {size(before)}, after merging {size(after)}: {size(saved)} saved"
    inside = "\n  ".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img">\n  <title>{escape(title)}</title>\n  <style>{STYLE}  '
        f'</style>\n  <rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="8"/>\n'
        f"  {inside}\n</svg>\n"
    )


def part(kind: str, left: float, top: int, width: float, what: str, why: str) -> list[str]:
    """A part of a bar, and two lines in it."""
    return [box(kind, left, top, width), label(f"on-{kind}", left, top, width, what, why)]


def box(kind: str, left: float, top: int, width: float) -> str:
    """A part of a bar without words."""
    return (
        f'<rect class="{kind}" x="{left + GAP / 2:.1f}" y="{top}" width="{width - GAP:.1f}" '
        f'height="{BAR}" rx="4"/>'
    )


def label(ink: str, left: float, top: int, width: float, what: str, why: str) -> str:
    """Two lines in the middle of a part."""
    middle = left + width / 2
    return (
        text(middle, top + 31, 18, what, ink, bold=True, anchor="middle")
        + "\n  "
        + text(middle, top + 54, 16, why, ink, anchor="middle")
    )


def text(
    left: float,
    base: int,
    height: int,
    words: str,
    ink: str = "text",
    *,
    bold: bool = False,
    anchor: str = "start",
) -> str:
    """A line of text."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text class="{ink}" x="{left:.1f}" y="{base}" font-size="{height}"{weight} '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def size(count: int) -> str:
    """Bytes in MB, without decimals."""
    return f"{count / 1e6:,.0f} MB"


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
