"""Draws one run of ``pagemerge demo --json`` as two bars: before merging and after."""

from __future__ import annotations

from typing import Any

from . import svg
from .svg import text

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
        f"Measured by the kernel ({kernel}). Anonymous memory of {workers} processes: "
        f"{size(told['before']['pss_bytes'])} before, {size(pss)} after.",
        f"The store, which holds the one copy: {size(told['before']['store_bytes'])} before, "
        f"{size(store)} after.",
        f"Checked afterwards: {told['changed_pages']:,} pages with a wrong byte, "
        f"{told['lost_writes']:,} of {told['writes']:,} page writes lost.",
    )
    parts += [text(MARGIN, 368 + 26 * row, 16, note, "note") for row, note in enumerate(notes)]
    title = f"Before merging {size(before)}, after merging {size(after)}: {size(saved)} saved"
    return svg.picture(WIDTH, HEIGHT, STYLE, title, parts)


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


def size(count: int) -> str:
    """Bytes in MB, without decimals."""
    return f"{count / 1e6:,.0f} MB"
