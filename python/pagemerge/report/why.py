"""Why not: the reasons for which memory does not merge, with the cure of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from pagemerge.figures import number, precise
from pagemerge.find.eligible import REASONS
from pagemerge.report.given import Given, Room
from pagemerge.report.shapes import Bars, Section, bars
from pagemerge.report.words import cut, listed

NAMED = 3
"""Processes that are named for a reason."""


@dataclass(slots=True)
class Reason:
    """A reason of some processes, with its cure."""

    kind: str
    text: str
    cure: str
    bytes: float = 0.0
    holders: dict[str, float] = field(default_factory=dict)
    """Process -> its bytes."""


@dataclass(frozen=True, slots=True)
class Told:
    """A reason as the template shows it."""

    kind: str
    size: str
    text: str
    cure: str
    holders: str


@dataclass(frozen=True, slots=True)
class WhyNot:
    """What the template draws."""

    barred: Bars | None
    kinds: Bars | None
    reasons: tuple[Told, ...]
    more: str


def section(figures: Given, room: Room) -> Section | None:
    """Draw what ``--why`` has found, and the memory that cannot be merged at all."""
    found = figures.part("why")
    kinds, reasons = found.counts("bytes_by_kind"), _reasons(found, room)
    barred = figures.part("totals").counts("ineligible_bytes_by_reason")
    if not kinds and not barred and "why" not in figures:
        return None
    rows = [(cut(name, room.name), bytes_, "") for name, bytes_ in kinds[: room.items]]
    impossible = [(cut(name, room.name), bytes_, REASONS.get(name, "")) for name, bytes_ in barred]
    more = [number(len(reasons) - room.items, "more reason") + " with fewer bytes"]
    more = more if len(reasons) > room.items else []
    if others := found.number("processes_left_out"):
        told = number(others, "smaller process", "smaller processes")
        more.append(f"{told} of which little or nothing merges")
    content = WhyNot(
        bars("Memory that cannot be merged", impossible[: room.items], colour="barred")
        if impossible
        else None,
        bars("Why memory of these processes does not merge", rows) if rows else None,
        tuple(_told(it) for it in reasons[: room.items]),
        f"Left out: {listed(more)}." if more else "",
    )
    words = (*_words(found, kinds, room), *_words_of_barred(barred, room))
    return Section("why", "Why not", words, content)


def _words(found: Given, kinds: list[tuple[str, float]], room: Room) -> tuple[str, ...]:
    if not found:
        return ()
    processes = found.parts("processes")
    if not processes:
        return ("No process that was looked at merges little or nothing.",)
    total = sum(it.number("memory_bytes") for it in processes)
    merged = sum(it.number("merged_bytes") for it in processes)
    who = number(len(processes), "process", "processes")
    told = f"Of {precise(total)} of {who}, {precise(merged) if merged else 'nothing'} is merged"
    return (f"{told}; the main reason: {cut(kinds[0][0], room.name)}." if kinds else f"{told}.",)


def _words_of_barred(barred: list[tuple[str, float]], room: Room) -> tuple[str, ...]:
    if not barred:
        return ()
    name, bytes_ = barred[0]
    total = sum(it for _, it in barred)
    if len(barred) == 1:
        return (f"{precise(total)} cannot be merged: {cut(name, room.name)}.",)
    most = f"{cut(name, room.name)} ({precise(bytes_)})"
    return (f"{precise(total)} cannot be merged, most of it {most}.",)


def _reasons(found: Given, room: Room) -> list[Reason]:
    """Put the processes together that have the same reason and cure; most bytes first."""
    known: dict[tuple[str, str, str], Reason] = {}
    for process in found.parts("processes"):
        name = process.raw("guest") or process.raw("name")
        who = f"{cut(name, room.name)} ({process.count('pid')})"
        told = [
            (it.raw("kind"), it.raw("text"), it.raw("cure"), it.number("bytes"))
            for it in process.parts("reasons")
        ]
        if error := process.raw("error"):
            told.append(("not known", error, "", process.number("memory_bytes")))
        for kind, text, cure, bytes_ in told:
            key = cut(kind, room.name), cut(text, room.text), cut(cure, room.text)
            reason = known.setdefault(key, Reason(*key))
            reason.bytes += bytes_
            reason.holders[who] = reason.holders.get(who, 0.0) + bytes_
    return sorted(known.values(), key=lambda reason: -reason.bytes)


def _told(reason: Reason) -> Told:
    holders = sorted(reason.holders, key=lambda name: -reason.holders[name])
    names = listed(holders[:NAMED], len(holders) - NAMED)
    return Told(reason.kind, precise(reason.bytes), reason.text, reason.cure, names)
