"""What a run came to, for people, and its section of the page on reliability."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from tests.fuzz.campaign import Result
from tests.soak.report import scrub

HEADING = "## The fuzzer"


def told(result: Result) -> str:
    """All in a few lines."""
    rate = result.messages / max(result.seconds, 1e-9)
    lines = [
        f"{result.messages:,} messages in {result.seconds:.0f} s ({rate:,.0f} a second)",
        f"the hub's memory: at most {result.memory >> 20} MiB of {result.bound >> 20}; descriptors "
        f"{result.descriptors[0]} before, {result.descriptors[1]} after; threads "
        f"{result.threads[0]} and {result.threads[1]}",
    ]
    lines += [f"not tried: {result.skipped}"] if result.skipped else []
    for name, (quiet, beside) in result.waits.items():
        lines.append(f"bystander {name}: {quiet.told()} in quiet, {beside.told()} beside them")
    return "\n".join([*lines, *result.faults])


def markdown(result: Result, asked: int) -> str:
    """The section."""
    rate = result.messages / max(result.seconds, 1e-9)
    lines = [
        HEADING,
        "",
        "Hostile processes of several users say and do anything to a hub of root's, while",
        "bystanders have a megabyte merged at once, again and again (`pagemerge.copy`), and",
        "measure how long that takes. In quiet the same processes compute, so that the processors",
        "are as busy. A wait may be three times as long as in quiet, or 10 ms longer: in the",
        "median, and for the slowest hundredth of the copies (p99). `make fuzz` repeats it.",
        "",
        "**All is well in this run.**" if not result.faults else "**Not all is well in this run.**",
        "",
        *[f"- {scrub(fault)}" for fault in result.faults],
        *([""] if result.faults else []),
        "| | |",
        "|---|---|",
        f"| date | {time.strftime('%Y-%m-%d')} |",
        f"| kernel | {os.uname().sysname} {os.uname().release} {os.uname().machine} |",
        f"| cores | {len(os.sched_getaffinity(0))} |",
        f'| command | `make fuzz ARGS="--messages {asked} --seed {result.seed}"` |',
        f"| duration | {result.seconds:.0f} s |",
        f"| messages | {result.messages:,} ({rate:,.0f} a second) |",
        f"| most memory of the hub, slabs included | {result.memory >> 20} MiB |",
        f"| what it might have had | {result.bound >> 20} MiB |",
        f"| its descriptors, before and after | {result.descriptors[0]}, {result.descriptors[1]} |",
        f"| its threads, before and after | {result.threads[0]}, {result.threads[1]} |",
        *([f"| not tried | {scrub(result.skipped)} |"] if result.skipped else []),
        "",
        "| bystander | copies | median, quiet | beside | p99, quiet | beside |",
        "|---|---:|---:|---:|---:|---:|",
        *[
            f"| {name} | {len(beside.took):,} | {quiet.median * 1e3:.1f} ms "
            f"| {beside.median * 1e3:.1f} ms | {quiet.late * 1e3:.1f} ms "
            f"| {beside.late * 1e3:.1f} ms |"
            for name, (quiet, beside) in result.waits.items()
        ],
        "",
        "| act | how often |",
        "|---|---:|",
        *[f"| {name.replace('_', ' ')} | {many:,} |" for name, many in sorted(result.acts.items())],
    ]
    return "\n".join(lines) + "\n"


def write(page: Path, result: Result, asked: int) -> None:
    """Replace the section in a page, or add it at its end."""
    text = page.read_text() if page.exists() else "# Reliability\n"
    section = markdown(result, asked)
    pattern = re.compile(rf"{re.escape(HEADING)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if pattern.search(text):
        text = pattern.sub(lambda _: section + "\n", text, count=1)
    else:
        text = text.rstrip() + "\n\n" + section
    page.write_text(text.rstrip() + "\n")
