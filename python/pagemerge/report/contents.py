"""What is duplicated: the kinds of content, the files, and the contents that save most."""

from __future__ import annotations

from dataclasses import dataclass

from pagemerge.figures import number, precise
from pagemerge.report.given import Given, Room
from pagemerge.report.shapes import Bars, Section, bars
from pagemerge.report.words import cut, listed, shortened

KINDS = {
    "zeros": "zeros",
    "repeated word": "one word, repeated",
    "file": "pages of files that a process has open or mapped",
    "text": "text",
    "pointers": "pointers (heaps)",
    "unknown": "unknown",
    "not read": "not told apart: too many, or changed meanwhile",
}
"""Kind of content -> its label; another kind has its own name."""
TOLD = 40
"""Characters of a page's bytes that are shown."""
FILES = 12
"""Files that are listed."""
WIDEST_PATH = 96
"""Characters of a path that are shown."""


@dataclass(frozen=True, slots=True)
class Content:
    """A row of the contents that save most."""

    saves: str
    copies: str
    kind: str
    told: str
    holders: str
    places: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What the template draws."""

    kinds: Bars
    files: Bars | None
    top: tuple[Content, ...]


def section(figures: Given, room: Room) -> Section | None:
    """Draw what ``--what`` has asked for."""
    found = figures.part("contents")
    kinds = [it for it in found.parts("kinds") if it.number("saveable_bytes")]
    if not kinds:
        return None
    kinds.sort(key=lambda it: -it.number("saveable_bytes"))
    rows = [(_label(it, room), it.number("saveable_bytes"), _note(it, room)) for it in kinds]
    content = Contents(
        bars("What the duplicated pages hold", rows[: room.items]),
        _files(kinds, room),
        tuple(_content(it, room) for it in found.parts("top")[: room.items]),
    )
    return Section("what", "What is duplicated", _words(kinds, content, room), content)


def _words(kinds: list[Given], content: Contents, room: Room) -> tuple[str, ...]:
    most = kinds[0]
    words = [f"Most is saved by {_label(most, room)}: {precise(most.number('saveable_bytes'))}."]
    if content.files:
        first = content.files.rows[0]
        words.append(f"Of the files, {first.label} lies in memory most: {first.value}.")
    return tuple(words)


def _label(kind: Given, room: Room) -> str:
    name = kind.raw("kind")
    return KINDS.get(name) or cut(name, room.name)


def _note(kind: Given, room: Room) -> str:
    copies = number(kind.number("copies"), "copy", "copies")
    told = f"{copies} of {number(kind.number('contents'), 'content')}"
    if names := _names(kind.counts("copies_by_name"), 3, room):
        told += f"; in {names}"
    if places := _names(kind.counts("copies_by_mapping"), 2, room):
        told += f"; mappings: {places}"
    return told


def _names(counts: list[tuple[str, float]], most: int, room: Room) -> str:
    names = [cut(name, room.name) for name, _ in counts[:most]]
    return listed(names, len(counts) - most) if names else ""


def _files(kinds: list[Given], room: Room) -> Bars | None:
    files = [it for kind in kinds for it in kind.parts("files") if it.number("saveable_bytes")]
    if not files:
        return None
    files.sort(key=lambda it: -it.number("saveable_bytes"))
    rows = [
        (
            shortened(it.raw("path"), min(WIDEST_PATH, room.text)),
            it.number("saveable_bytes"),
            f"build id {cut(build_id, room.name)}" if (build_id := it.raw("build_id")) else "",
        )
        for it in files[: min(FILES, room.items)]
    ]
    left = len(files) - len(rows)
    more = f"Left out: {number(left, 'more file')} that save less." if left > 0 else ""
    return bars("Files whose pages lie in memory once more", rows, more, "across", wide=True)


def _content(it: Given, room: Room) -> Content:
    return Content(
        precise(it.number("saveable_bytes")),
        f"{it.count('copies'):,}",
        cut(it.raw("kind"), room.name),
        _told(it, room),
        _names(it.counts("copies_by_name"), 2, room),
        _names(it.counts("copies_by_mapping"), 1, room),
    )


def _told(it: Given, room: Room) -> str:
    """Show the content: its place in a file, its text, or its first bytes."""
    if path := it.raw("file"):
        short = shortened(path, min(WIDEST_PATH, room.text))
        return f"{short} page {it.count('file_page'):,}"
    try:
        first = bytes.fromhex(it.raw("first_bytes")[: 2 * TOLD])
    except ValueError:
        return ""
    if it.raw("kind") == "text":
        return cut(first.rstrip(b"\0").decode("utf-8", "surrogateescape"), TOLD)
    return first[: 8 if it.raw("kind") == "repeated word" else 16].hex(" ", 8)
