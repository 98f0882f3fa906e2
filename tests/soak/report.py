"""The result of a soak for people: a Markdown page that names no path of the machine."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from pathlib import Path

from tests.soak.keeper import GROWTH, SLACK
from tests.soak.soak import SHARED_SLACK, UNOWNED_SLACK, Result

ROWS = (
    ("started", "processes started"),
    ("unmarked", "of them programs that mark nothing (`run --all`)"),
    ("machines", "of them virtual machines, whose guests and devices write (KVM)"),
    ("killed", "processes killed (SIGKILL)"),
    ("exited", "processes ended in the middle of everything"),
    ("left", "processes that left in order"),
    ("stopped", "processes stopped for a while (SIGSTOP)"),
    ("hubs_started", "hubs started"),
    ("hubs_killed", "hubs killed (SIGKILL)"),
    ("hub_stops", "hubs stopped for a while (SIGSTOP)"),
    ("merges", "pages merged (as far as the hubs could tell before they were killed)"),
    ("separations", "merged pages written again, and separated"),
    ("writes", "pages written"),
    ("checked", "pages checked, byte by byte"),
    ("checks", "checks of everything a process has"),
    ("forks", "forked children that checked and wrote"),
    ("spawns", "programs spawned (vfork, posix_spawn)"),
    ("discards", "discards (MADV_DONTNEED, MADV_FREE, arrays freed)"),
    ("remaps", "mprotect, mremap, mmap over merged memory"),
    ("unmerges", "memory taken out of merging, or put back"),
    ("births", "arrays and mappings made"),
    ("refused", "calls of the API refused for want of a hub"),
    ("ebbs", "times that all processes had ended and leaks were looked for"),
    ("wrong", "**pages with a wrong byte**"),
    ("failed", "**calls that failed and must not**"),
    ("leaked_processes", "**leaked processes**"),
    ("leaked_descriptors", "**leaked descriptors**"),
    ("leaked_slots", "**leaked slots**"),
    ("most_hub_descriptors", "most descriptors that a hub had open"),
)

HOST_NOTE = (
    "The last rows are of the whole host, where other programs run, too. The soak fails if, when",
    f"all its processes have left, Shmem is more than {SHARED_SLACK >> 20} MiB higher than before,"
    f" or more than {UNOWNED_SLACK >> 20} MiB",
    "more are in use that belong to no process. MemAvailable alone is not judged. The hub's own",
    f"memory may grow by a factor of {GROWTH:g} and {SLACK >> 20} MiB: it has a record of each page"
    " of its clients, and",
    "their number differs from moment to moment.",
)

PATH = re.compile(r"(?<![\w:/.])/(?!proc/|sys/)(?:[\w.@+-]+/)+([\w.@+-]+)")


def scrub(text: str) -> str:
    """Text without the machine's paths: their last part stays."""
    return PATH.sub(r"\1", text)


def verdict(result: Result) -> str:
    """The end result in words."""
    counts = result.counts
    told = (
        f"{counts['started']} processes came and went in {result.seconds / 60:.1f} minutes, "
        f"{counts['killed']} of them and {counts['hubs_killed']} hubs were killed; "
        f"{counts['merges']:,} pages were merged, {counts['checked']:,} checked"
    )
    if not result.faults:
        return f"All is well: {told}, and not a byte was wrong; nothing was leaked."
    number = len(result.faults)
    return f"{number} fault{'s' if number != 1 else ''}: {told}."


def markdown(result: Result, command: str) -> str:
    """The report."""
    lines = [
        "# Reliability",
        "",
        "A soak lets real processes come and go while their memory is merged, forks, discards and",
        "remaps it, and kills or stops processes and hubs at random. Every page knows what it must",
        "hold. `make soak` repeats it. The seed fixes the plan; the timing depends on the host.",
        "",
        f"**{scrub(verdict(result))}**",
        "",
        *[f"- {scrub(fault)}".replace("\n", "\n  ") for fault in result.faults],
        *([""] if result.faults else []),
        "| | |",
        "|---|---|",
        f"| date | {time.strftime('%Y-%m-%d')} |",
        f"| kernel | {os.uname().sysname} {os.uname().release} {os.uname().machine} |",
        f"| cores | {len(os.sched_getaffinity(0))} |",
        f"| command | `{scrub(command)}` |",
        f"| seed | {result.seed} |",
        f"| duration | {result.seconds:.0f} s |",
        "",
        "| what | how often |",
        "|---|---:|",
        *[f"| {name} | {result.counts[key]:,} |" for key, name in ROWS],
        *_memory(result),
        "",
    ]
    return "\n".join(lines)


def put(page: Path, text: str) -> None:
    """Write the report at a page's top, above the sections of others (``## ``), which stay."""
    before = page.read_text() if page.exists() else ""
    sections = re.search(r"^## .*\Z", before, re.MULTILINE | re.DOTALL)
    page.write_text(f"{text}\n{sections[0]}" if sections else text)


def _memory(result: Result) -> list[str]:
    rows = []
    if result.hub_memory is not None:
        first, last = (mean / 2**20 for mean in result.hub_memory)
        rows.append(f"| own memory of the last hub, first third of its life | {first:.1f} MiB |")
        rows.append(f"| the same, last third | {last:.1f} MiB |")
    if result.before is not None and result.after is not None:
        for name in ("available", "shared"):
            before, after = (getattr(it, name) / 2**20 for it in (result.before, result.after))
            label = {"available": "MemAvailable", "shared": "Shmem"}[name]
            rows.append(
                f"| {label} of the host, before and after | {before:.0f}, {after:.0f} MiB |"
            )
        rows += ["", *HOST_NOTE]
    return rows


def as_json(result: Result) -> str:
    """All figures: counts as in ``ROWS``, memory in bytes."""
    row = dataclasses.asdict(result)
    row["faults"] = [scrub(fault) for fault in result.faults]
    return json.dumps(row, indent=2)
