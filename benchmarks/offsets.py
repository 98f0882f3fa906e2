"""How real duplicates lie: how many mappings they take, and how many of them lie at equal offsets.

Starts programs that hold the same data, stops them, and reads their private anonymous memory. For
each workload:

- saving: the pages that merging would free (zero pages apart, which need no mapping);
- mappings: what merging takes today, a mapping for each run of consecutive pages on consecutive
  slots;
- bridged 1, 8, 64: the same if a mapping also covers up to so many pages between two merged ones
  that are not merged themselves, which would be copied into it; and the pages to be copied;
- own slots: the mappings, bridged by up to 8 pages, if the second copy of a content within a
  process has a slot of its own, and so on, and what is saved then;
- one offset: the part of the merged pages that lie, in their block of 2 MiB, at the block's most
  frequent distance from their slots, so that one mapping a block would do for them.

A table, then one line of JSON. Run as root, from the root of the project:
``.venv/bin/python benchmarks/offsets.py [WORKLOAD...]``
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from lab import loads, resting
from lab.each import each

PAGE = 4096
BLOCK = 512
GAPS = (1, 8, 64)
PRESENT, FILE = 1 << 63, 1 << 61

PROGRAM = """
import asyncio, csv, decimal, email, http.server, json, logging, sqlite3, sys, unittest
table = list(csv.reader(open(sys.argv[1])))
cache = {row[0]: json.dumps(row) for row in table}
print("ready", flush=True)
sys.stdin.read()
"""
"""Small objects: a table of 30,000 rows, and the text of each row."""

MODEL = """
import sys
model = [open(sys.argv[1], "rb").read() for _ in range(2)]
print("ready", flush=True)
sys.stdin.read()
"""
"""A file of 24 MiB in memory, twice."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a process: number of its address, digest, and the mapping that it lies in."""

    number: int
    digest: bytes
    mapping: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How the duplicates of a workload lie; in pages, but for the mappings."""

    workload: str
    pages: int
    saving: int
    merged: int
    mappings: int
    bridged: list[tuple[int, int]]
    """Mappings and pages to be copied, for each of ``GAPS``."""
    own_slots: tuple[int, int, int]
    """Saving, mappings, and pages to be copied."""
    one_offset: int


def pages_of(pid: int) -> Iterator[Page]:
    """The private anonymous pages of a process that are not zero."""
    zero = bytes(PAGE)
    maps = Path(f"/proc/{pid}/maps").read_bytes().split(b"\n")
    with (
        Path(f"/proc/{pid}/mem").open("rb", 0) as memory,
        Path(f"/proc/{pid}/pagemap").open("rb", 0) as table,
    ):
        for number, line in enumerate(maps):
            fields = line.split()
            if len(fields) < 5 or not fields[1].startswith(b"rw-p") or fields[4] != b"0":
                continue
            if fields[5:] and fields[5] in (b"[stack]", b"[vvar]"):
                continue
            first, end = (int(it, 16) // PAGE for it in fields[0].split(b"-"))
            for page in range(first, end, BLOCK):
                few = min(BLOCK, end - page)
                entries = memoryview(os.pread(table.fileno(), few * 8, page * 8)).cast("Q")
                for at, entry in enumerate(entries):
                    if entry & PRESENT and not entry & FILE:
                        content = os.pread(memory.fileno(), PAGE, (page + at) * PAGE)
                        if content != zero:
                            digest = hashlib.blake2b(content, digest_size=12).digest()
                            yield Page(page + at, digest, number)


Key = tuple[bytes, int]


def keys(pages: list[Page], own: bool) -> list[Key]:
    """What names the slot of each page: its content, and (``own``) which copy in the process."""
    seen: Counter[bytes] = Counter()
    named = []
    for page in pages:
        named.append((page.digest, seen[page.digest] if own else 0))
        seen[page.digest] += 1
    return named


def runs(processes: list[list[Page]], own: bool, most: int | None) -> tuple[int, int, int]:
    """Slots, mappings and copied pages. Slots are numbered as a plan does, in order of address.

    ``most`` pages may lie between two pages of a mapping; None: as today, on consecutive slots.
    """
    named = [keys(pages, own) for pages in processes]
    copies = Counter(key for its in named for key in its)
    home: dict[Key, tuple[int, int, int]] = {}
    for process, (pages, its) in enumerate(zip(processes, named, strict=True)):
        for page, key in zip(pages, its, strict=True):
            if copies[key] > 1 and key not in home:
                home[key] = (len(home), process, page.number)
    mappings = copied = 0
    for pages, its in zip(processes, named, strict=True):
        before: tuple[Page, tuple[int, int, int]] | None = None
        for page, key in zip(pages, its, strict=True):
            if key not in home:
                continue
            slot, donor, number = home[key]
            joins = False
            if before is not None and before[0].mapping == page.mapping:
                last, (its_slot, its_donor, its_number) = before
                gap = page.number - last.number - 1
                if most is None:
                    joins = gap == 0 and slot == its_slot + 1
                elif gap <= most and donor == its_donor:
                    joins = page.number - number == last.number - its_number
                copied += gap if joins else 0
            mappings += not joins
            before = page, home[key]
    return len(home), mappings, copied


def one_offset(processes: list[list[Page]]) -> tuple[int, int]:
    """Merged pages, and those of them at the most frequent distance of their block."""
    copies = Counter(page.digest for pages in processes for page in pages)
    home: dict[bytes, tuple[int, int]] = {}
    merged = same = 0
    for process, pages in enumerate(processes):
        offsets: dict[int, Counter[tuple[int, int]]] = {}
        for page in pages:
            if copies[page.digest] > 1:
                donor, number = home.setdefault(page.digest, (process, page.number))
                its = offsets.setdefault(page.number // BLOCK, Counter())
                its[donor, page.number - number] += 1
                merged += 1
        same += sum(max(its.values()) for its in offsets.values())
    return merged, same


def layout(name: str, pids: list[int]) -> Layout:
    """Read the processes and count."""
    processes = [list(pages_of(pid)) for pid in pids]
    merged, same = one_offset(processes)
    slots, mappings, _ = runs(processes, own=False, most=None)
    bridged = [runs(processes, own=False, most=most)[1:] for most in GAPS]
    _, fewer, copied = runs(processes, own=True, most=8)
    apart = Counter(key for pages in processes for key in keys(pages, own=True))
    saved_apart = sum(apart.values()) - len(apart)
    return Layout(
        name,
        sum(map(len, processes)),
        merged - slots,
        merged,
        mappings,
        bridged,
        (saved_apart, fewer, copied),
        same,
    )


@contextlib.contextmanager
def pythons(folder: Path, *, program: str, prefix: tuple[str, ...] = ()) -> Iterator[loads.Pids]:
    """Four programs of their own, not forked from each other."""
    table = folder / "table.csv"
    table.write_text(
        "".join(f"{row},{row * 7919 % 30011 / 7},name {row}\n" for row in range(30_000))
    )
    file = table if program is PROGRAM else resting.model(folder)
    with ExitStack() as stack:
        argv = [*prefix, sys.executable, "-c", program, str(file)]
        programs = [stack.enter_context(loads.started(argv)) for _ in range(4)]
        for one in programs:
            loads.said(one, b"ready")
        yield lambda: [one.pid for one in programs]


ALL = (str(Path(sys.executable).parent / "pagemerge"), "run", "--all", "--")
Workload = Callable[[Path], AbstractContextManager[loads.Pids]]
WORKLOADS: dict[str, Workload] = {
    "4 Python": partial(pythons, program=PROGRAM),
    "4 Python, no ASLR": partial(pythons, program=PROGRAM, prefix=("setarch", "-R")),
    "4 Python, run --all": partial(pythons, program=PROGRAM, prefix=ALL),
    "4 models": partial(pythons, program=MODEL),
    "3 Redis": partial(loads.redis, prefix=()),
    "2 JVMs": partial(resting.jvm, prefix=()),
    "3 QEMU guests": loads.qemu,
}


def measure(name: str, results: list[Layout]) -> None:
    """One workload, while it stands still."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        with WORKLOADS[name](Path(folder)) as pids:
            stopped = pids()
            try:
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                results.append(layout(name, stopped))
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
    show(results[-1])


def show(one: Layout) -> None:
    """A row of the table."""
    cells: list[str | int] = [one.workload, one.saving, one.merged, one.mappings]
    cells += [f"{mappings:,} + {copied:,}" for mappings, copied in one.bridged]
    saving, mappings, copied = one.own_slots
    cells += [f"{saving:,}: {mappings:,} + {copied:,}"]
    cells += [f"{one.one_offset / max(one.merged, 1):.1%}"]
    print(" | ".join(f"{it:,}" if isinstance(it, int) else it for it in cells), flush=True)


def main() -> int:
    """Measure the workloads that are named, or all."""
    heads = ["workload", "saving", "merged", "mappings"]
    heads += [f"bridged {most} + copied" for most in GAPS]
    print(" | ".join([*heads, "own slots: saving, mappings + copied", "one offset"]), flush=True)
    results: list[Layout] = []
    _, failed = each(sys.argv[1:] or WORKLOADS, partial(measure, results=results))
    print(json.dumps([asdict(one) for one in results]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
