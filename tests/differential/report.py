"""The result of a differential run for people, and its part of the page on reliability."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path

from tests.differential.campaign import Result

HEADING = "## The differential test"
FINDINGS = (
    "Each line below is a difference: its kind, the call, and what the merged run had for what the",
    "bare run had. `once` means that the same program, run again in new processes, did not show",
    'it. "What the long runs found" gives the causes that are known:',
    "",
)


def verdict(seed: int, results: dict[str, Result]) -> str:
    """All in a few lines."""
    lines = []
    for barrier, result in results.items():
        counts = result.counts
        rate = counts["calls"] / max(result.seconds, 1e-9)
        lines.append(
            f"seed {seed}, {barrier}: {counts['programs']:,} programs, {counts['calls']:,} calls "
            f"in {result.seconds:.0f} s ({rate:,.0f} a second), {counts['page_merges']:,} page "
            f"merges; {counts['failing']:,} programs differ, in {len(result.findings)} ways"
        )
        lines += [f"  {key}" for key in result.findings]
        lines += [f"  {many:6} x {kind}" for kind, many in result.kinds.most_common()]
        if counts["programs"] and not counts["page_merges"]:
            lines.append("  no page was merged, so nothing was tested")
    return "\n".join(lines)


def markdown(seed: int, results: dict[str, Result], asked: int) -> str:
    """The section."""
    lines = [
        HEADING,
        "",
        "Random programs of memory calls run bare, and while their memory is merged between and",
        "beside their steps: every result, error number, byte, permission and flag must be equal,",
        "less what `tests/differential/stated.py` lists. `make differential` repeats it.",
        "",
        "| | |",
        "|---|---|",
        f"| date | {time.strftime('%Y-%m-%d')} |",
        f"| kernel | {os.uname().sysname} {os.uname().release} {os.uname().machine} |",
        f'| command | `make differential ARGS="--calls {asked} --seed {seed}"` |',
        "",
        "| barrier | programs | calls | page merges | seconds | programs that differ |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for barrier, result in results.items():
        counts = result.counts
        lines.append(
            f"| {barrier} | {counts['programs']:,} | {counts['calls']:,} | "
            f"{counts['page_merges']:,} | {result.seconds:.0f} | {counts['failing']:,} |"
        )
    lines.append("")
    if any(result.findings for result in results.values()):
        lines += FINDINGS
    for result in results.values():
        lines += [f"- `{key}`" for key in result.findings]
    return "\n".join(lines).rstrip() + "\n"


def keep(folder: Path, result: Result) -> None:
    """A file for each finding; the tests replay them."""
    folder.mkdir(exist_ok=True)
    for key, finding in result.findings.items():
        name = re.sub(r"[^a-z0-9]+", "-", finding.difference.rough.lower()).strip("-")
        mark = hashlib.sha256(key.encode()).hexdigest()[:6]
        lines = [f"# {key}, barrier {finding.barrier} ({finding.name})", *finding.program]
        (folder / f"{name[:50]}-{mark}.txt").write_text("\n".join(lines) + "\n")


def write(page: Path, seed: int, results: dict[str, Result], asked: int) -> None:
    """Replace the section in a page, or add it at its end."""
    text = page.read_text() if page.exists() else "# Reliability\n"
    section = markdown(seed, results, asked)
    pattern = re.compile(rf"{re.escape(HEADING)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if pattern.search(text):
        text = pattern.sub(lambda _: section + "\n", text, count=1)
    else:
        text = text.rstrip() + "\n\n" + section
    page.write_text(text.rstrip() + "\n")
