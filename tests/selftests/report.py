"""The result for people and for programs: a table, JSON, and a section of the reliability page."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.selftests.trial import Result, Row
from tests.selftests.ways import WAYS

HEADING = "## Public selftests"
MANY = 6
"""Checks of one kind that are named; of more there is the number."""


def verdict(result: Result) -> str:
    """The end result in words."""
    ways = len(result.ways)
    told = (
        f"{len(result.programs)} programs with {sum(result.programs.values())} checks, "
        f"bare and in {ways} other way{'s' if ways != 1 else ''}"
    )
    stated = len(result.rows) - len(result.unexplained)
    if not result.unexplained:
        return f"No difference but {stated} stated ones: {told}."
    number = len(result.unexplained)
    return f"{number} unexplained difference{'s' if number != 1 else ''}, {stated} stated: {told}."


def grouped(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """One row for each kind of difference of a program in a way, and the checks it stands for."""
    kinds: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row.program, row.way, row.bare, row.here, row.stated, row.note].append(row)
    return [(those[0], _checks(those)) for those in kinds.values()]


def _checks(rows: Sequence[Row]) -> str:
    if len(rows) > MANY:
        return f"{len(rows)} checks, the first: {_check(rows[0])}"
    return "; ".join(map(_check, rows))


def _check(row: Row) -> str:
    return row.check if row.title == row.check else f"{row.check} {row.title}"


def lines(result: Result) -> list[str]:
    """The result as text for a terminal."""
    told = []
    for row, checks in grouped(result.rows):
        told.append(f"{row.program} [{row.way}] {checks}: {row.bare} -> {row.here}")
        told += [
            f"    {more}" for more in (row.note, row.stated and f"stated: {row.stated}") if more
        ]
    for row, checks in grouped(result.others):
        told.append(f"without an agent, too: {row.program} [{row.way}] {checks}: {row.here}")
    told += [f"fails bare, too: {name}: {how}" for name, how in result.failed.items()]
    told += [f"note: {note}" for note in result.notes]
    told += [f"left out: {name}: {why}" for name, why in sorted(result.left_out.items())]
    return [*told, verdict(result)]


def as_json(result: Result) -> str:
    """All of the result."""
    return json.dumps({**dataclasses.asdict(result), "verdict": verdict(result)}, indent=2)


def section(result: Result, command: str) -> str:
    """The section of docs/reliability.md."""
    ways = {way.name: way.about for way in WAYS}
    text = [
        HEADING,
        "",
        "Linux's own tests of memory management and CPython's are run bare, and beside an agent:",
        "",
        *[f"- **{name}**: {ways[name]}" for name in result.ways],
        "",
        f"**{verdict(result)}**",
        "",
        f"{time.strftime('%Y-%m-%d')}, {os.uname().sysname} {os.uname().release}, `{command}`, "
        f"{result.seconds:.0f} s",
        "",
    ]
    if result.rows:
        text += ["| program | way | check | bare | here | why |", "|---|---|---|---|---|---|"]
        for row, checks in grouped(result.rows):
            why = row.stated or f"**not explained** {row.note}"
            cells = (row.program, row.way, checks, row.bare, row.here, why.strip())
            text.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        text.append("")
    text += ["The same in all ways: " + ", ".join(_alike(result)) + ".", ""]
    if result.failed:
        told = (f"{name} ({how})" for name, how in result.failed.items())
        text += [f"Of these cannot do their work on this host, bare either: {', '.join(told)}.", ""]
    text += ["Left out:", ""]
    text += [f"- {', '.join(names)}: {why}" for why, names in _reasons(result).items()]
    return "\n".join([*text, ""])


def _alike(result: Result) -> list[str]:
    other = {row.program for row in result.rows}
    return [f"{name} ({checks})" for name, checks in result.programs.items() if name not in other]


def _reasons(result: Result) -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, why in sorted(result.left_out.items()):
        found[why].append(name)
    return found


def put(page: Path, text: str) -> None:
    """Write the section into a page, in the place of the one that is there, else at its end."""
    before = page.read_text() if page.exists() else ""
    old = re.compile(rf"^{re.escape(HEADING)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if old.search(before):
        page.write_text(old.sub(lambda _: text, before, count=1))
    else:
        page.write_text(f"{before.rstrip()}\n\n{text}" if before else text)
