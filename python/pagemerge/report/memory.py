"""Where memory goes: the answer to what merging would save, and the stacked bar of all memory."""

from __future__ import annotations

from dataclasses import dataclass

from pagemerge.figures import number, precise
from pagemerge.report.given import Given, Room, page_size
from pagemerge.report.shapes import Section, Stack, stack
from pagemerge.report.words import listed, part

ENLARGED = 0.4
"""If what can be merged is a smaller part of the bar, a second bar shows it alone."""

SAVED = {
    "zero": "zero pages",
    "within": "duplicates within a process",
    "across": "duplicates across processes",
}
"""What merging frees -> its name."""
MEANINGS = {
    "zero": "all bytes zero: merging frees each of them",
    "within": "merging frees them",
    "across": "merging frees them; one copy of each content stays",
    "shared": "further pages of a physical page: since a fork, or merged by Linux",
    "unique": "one page of each content, which stays",
    "barred": "shared memory, files, devices and the like",
}
"""Part of the bar -> what it means."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The first lines of the page."""

    head: str
    below: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What the template draws."""

    stack: Stack
    enlarged: Stack | None
    note: str


def answer(figures: Given) -> Answer:
    """Say what merging would save."""
    totals = figures.part("totals")
    looked_at, saves = totals.number("pages") * page_size(figures), totals.number("saveable_bytes")
    if not totals:
        sampled = figures.part("sample").part("total")
        looked_at = sampled.number("pages") * page_size(figures.part("sample"))
        saves = sampled.number("saveable_bytes")
    if not looked_at:
        return Answer("No memory was looked at", "")
    about = "" if totals else "about "
    head = f"Merging would save {about}{precise(saves)}" if saves else "Merging would save nothing"
    among = _among(figures)
    below = f"of {precise(looked_at)} looked at{among}: {part(saves, looked_at)}"
    return Answer(head, below)


def _among(figures: Given) -> str:
    """Say in how many processes and images; empty if the figures do not list all of them."""
    if figures.number("processes_left_out"):
        return ""
    read = [row for row in figures.parts("processes") if not row.raw("error")]
    images = sum(row.known("pid") is None for row in read)
    told = [number(len(read) - images, "process", "processes")] if len(read) > images else []
    told += [number(images, "memory image")] if images else []
    return f" in {listed(told)}" if told else ""


def section(figures: Given, _room: Room) -> Section | None:
    """Divide all memory by what merging does to it."""
    totals = figures.part("totals")
    size_of = page_size(figures)
    pages = totals.number("pages")
    if not pages and not totals.number("ineligible_bytes"):
        return None
    saves = totals.part("saveable_bytes_by_kind")
    shared = totals.number("already_shared_pages")
    # One frame of each content stays: pages = saveable + already shared + these.
    stays = pages * size_of - totals.number("saveable_bytes") - shared * size_of
    merged = f"mapped by the processes; saves {precise(totals.number('merged_saved_bytes'))}"
    mergeable = [
        *((key, name, MEANINGS[key], saves.number(key)) for key, name in SAVED.items()),
        ("shared", "already shared", MEANINGS["shared"], shared * size_of),
        ("merged", "merged by pagemerge", merged, totals.number("merged_pages") * size_of),
        ("unique", "unique", MEANINGS["unique"], max(stays, 0.0)),
    ]
    barred = totals.number("ineligible_bytes")
    everything = [
        *mergeable,
        ("barred", "cannot be merged", MEANINGS["barred"], barred),
    ]
    can = sum(bytes_ for *_, bytes_ in mergeable)
    small = 0 < can < ENLARGED * (can + barred)
    content = Memory(
        stack("All memory of the processes, by what merging does to it", everything),
        stack("The part that can be merged, enlarged", mergeable) if small else None,
        "Memory that cannot be merged counts once for each process that maps it." if barred else "",
    )
    return Section("memory", "Where memory goes", _words(figures, totals), content)


def _words(figures: Given, totals: Given) -> tuple[str, ...]:
    saves = totals.part("saveable_bytes_by_kind")
    parts = [
        f"{precise(saves.number(key))} are {name}"
        for key, name in SAVED.items()
        if saves.number(key)
    ]
    words = [f"Of what merging would save, {listed(parts)}."] if parts else []
    if not parts and totals.number("pages"):
        words.append("No two pages that may be merged have the same content.")
    engines = totals.part("saveable_bytes_by_engine_at_most")
    if parts and engines:
        words.append(
            f"The kernel engine could save {precise(engines.number('kernel'))} of it, and the user "
            f"engine at most {precise(engines.number('user'))}."
        )
    if before := _saved_before(totals, page_size(figures)):
        words.append(f"Saved before, and not counted above: {listed(before)}.")
    if barred := totals.number("ineligible_bytes"):
        words.append(f"{precise(barred)} cannot be merged, as mapped by each process.")
    return tuple(words)


def _saved_before(totals: Given, size_of: int) -> list[str]:
    found = []
    if merged := totals.number("merged_saved_bytes"):
        found.append(f"{precise(merged)} that pagemerge has merged")
    if shared := totals.number("already_shared_pages"):
        found.append(f"{precise(shared * size_of)} shared since a fork, or merged by Linux")
    return found
