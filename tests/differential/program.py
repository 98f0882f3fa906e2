"""Programs of memory calls: one step a line, as people read them and as the executor takes them.

A line is a word for the call and its arguments. ``p3`` is page 3 of the arena, ``n4`` the length of
four pages, ``s0:2`` page 2 of the first memory that the kernel placed, each with ``+5`` or ``-1``
bytes; names (``rw``, ``PRIVATE|ANON|FIXED``, ``DONTNEED``) stand for numbers. A line that begins
with ``>`` is a step of the child or the handler of the line before. ``#`` begins a comment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

PROTECTIONS = {"none": 0, "r": 1, "w": 2, "rw": 3, "x": 4, "rx": 5, "rwx": 7}
MAPPING = {
    "SHARED": 0x1,
    "PRIVATE": 0x2,
    "FIXED": 0x10,
    "ANON": 0x20,
    "LOCKED": 0x2000,
    "NORESERVE": 0x4000,
    "POPULATE": 0x8000,
    "STACK": 0x20000,
    "HUGETLB": 0x40000,
    "NOREPLACE": 0x100000,
}
MOVING = {"MAYMOVE": 1, "TO": 2, "DONTUNMAP": 4}
"""mremap(2): ``TO`` is MREMAP_FIXED."""
ADVICE = {
    "NORMAL": 0,
    "RANDOM": 1,
    "SEQUENTIAL": 2,
    "WILLNEED": 3,
    "DONTNEED": 4,
    "FREE": 8,
    "REMOVE": 9,
    "DONTFORK": 10,
    "DOFORK": 11,
    "MERGEABLE": 12,
    "UNMERGEABLE": 13,
    "HUGEPAGE": 14,
    "NOHUGEPAGE": 15,
    "DONTDUMP": 16,
    "DODUMP": 17,
    "WIPEONFORK": 18,
    "KEEPONFORK": 19,
    "COLD": 20,
    "PAGEOUT": 21,
    "POPULATE_READ": 22,
    "POPULATE_WRITE": 23,
    "DONTNEED_LOCKED": 24,
    "COLLAPSE": 25,
    "GUARD_INSTALL": 102,
    "GUARD_REMOVE": 103,
}
"""100 and 101 poison memory for the whole host, and are left out."""
OTHERS = {"MISSING": 1, "WRITES": 2, "ASYNC": 1, "INVALIDATE": 2, "SYNC": 4}
OTHERS |= {"CURRENT": 1, "FUTURE": 2, "ONFAULT": 4}
NAMES = {**PROTECTIONS, **MAPPING, **MOVING, **ADVICE, **OTHERS}

MARKS = frozenset({"look", "flags", "settle", "nap", "window", "fill", "peek", "poke", "race"})
"""Steps that are no calls under test."""

Program = tuple[str, ...]
"""Lines."""


def parse(text: str) -> Program:
    """The lines that are steps."""
    lines = (line.partition("#")[0].strip() for line in text.split("\n"))
    return tuple(line for line in lines if line)


def load(path: Path) -> Program:
    """The program in a file."""
    return parse(path.read_text())


def encode(program: Sequence[str]) -> bytes:
    """What the executor reads."""
    lines = [" ".join(_number(word) for word in line.split(" ")) for line in program]
    return "\n".join([*lines, "end", ""]).encode()


def _number(word: str) -> str:
    """Names joined by ``|`` as a number; anything else as it is."""
    parts = word.split("|")
    if not all(part in NAMES for part in parts):
        return word
    return str(sum({part: NAMES[part] for part in parts}.values()))


def calls(program: Sequence[str]) -> int:
    """How many of the steps are calls under test."""
    return sum(line.lstrip(">").split(" ")[0] not in MARKS for line in program)


def unmarked(program: Sequence[str]) -> Program:
    """The same without the steps that mark memory as mergeable."""
    return tuple(line for line in program if "MERGEABLE" not in line.split(" "))


def groups(program: Sequence[str]) -> list[list[str]]:
    """Steps with their sub-steps."""
    found: list[list[str]] = []
    for line in program:
        if line.startswith(">") and found:
            found[-1].append(line)
        else:
            found.append([line.lstrip(">")])
    return found


def sites(program: Sequence[str]) -> list[str]:
    """The label that the executor gives each step (``3``, ``c0``), in the order of the lines."""
    labels, outer, inner = [], -1, -1
    for line in program:
        if line.startswith(">"):
            inner += 1
            labels.append(f"{outer}/{inner}")
        else:
            outer, inner = outer + 1, -1
            labels.append(str(outer))
    return labels


def smaller(line: str) -> list[str]:
    """The same step with an argument simplified, one at a time, the boldest first."""
    words, found = line.split(" "), []
    for at, word in enumerate(words[1:], 1):
        simpler: list[str] = []
        if match := re.fullmatch(r"([pns]\d*(?::\d+)?)([+-]\d+)", word):
            simpler.append(match[1])
        elif match := re.fullmatch(r"n(\d+)", word):
            pages = int(match[1])
            simpler += [f"n{it}" for it in sorted({1, pages // 2, pages - 1}) if 0 < it < pages]
        elif match := re.fullmatch(r"p(\d+)", word):
            page = int(match[1])
            simpler += [f"p{it}" for it in sorted({0, page // 2, page - 1}) if 0 <= it < page]
        elif "|" in word:
            parts = word.split("|")
            simpler += ["|".join(parts[:it] + parts[it + 1 :]) for it in range(len(parts))]
        found += [" ".join([*words[:at], it, *words[at + 1 :]]) for it in simpler]
    return found
