"""Shows what the duplicated pages are (``scan --what``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.figures import number, pages
from pagemerge.linux.text import plain
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.cli.show.printed_scan import ContentsFigures
    from pagemerge.estimate.what import Content, Contents, Kind

MOST_FILES = MOST_CONTENTS = 10
SMALL = 0.01
"""Share of all that merging would save, below which a kind is only in the table."""
MOST_OF_A_FILE = 2
"""Pages of one file that are listed among the contents."""
_TOLD = 32
"""Characters of a page's bytes that are shown."""


def show(console: Console, result: Contents) -> None:
    """Print the kinds, the files, and the contents that save most."""
    total = sum(kind.saveable_pages for kind in result.kinds) or 1
    parts = [(kind.saveable_pages / total, kind.name) for kind in result.kinds]
    shares = [f"{share:.0%} {name}" for share, name in parts if share >= SMALL]
    tables.show(
        console, f"What the duplicates are: {', '.join(shares) or 'there are none'}.", "bold"
    )
    if not result.kinds:
        return
    rows = [
        (
            kind.name,
            pages(kind.saveable_pages),
            f"{kind.contents:,}",
            f"{kind.copies:,}",
            _names(kind.holders.most_common(3)),
            _names(kind.places.most_common(2)),
        )
        for kind in result.kinds
    ]
    order = ("KIND", "SAVES", "CONTENTS", "COPIES", "IN", "MAPPINGS")
    texts, figures = ("KIND", "IN", "MAPPINGS"), ("SAVES", "CONTENTS", "COPIES")
    spare = ("COPIES", "CONTENTS")
    console.print(tables.fitted(rows, console.width, texts, figures, order, spare))
    for kind in result.kinds:
        if kind.files:
            _files(console, kind)
    _top(console, result.top)


def _files(console: Console, kind: Kind) -> None:
    tables.show(console, "Files whose pages lie in memory once more:", "bold")
    told = [
        (pages(saves), f"{path}{f' (build id {build_id})' if build_id else ''}")
        for (path, build_id), saves in kind.files.most_common(MOST_FILES)
    ]
    tables.items(console, told)
    if len(kind.files) > MOST_FILES:
        tables.show(console, f"... and {number(len(kind.files) - MOST_FILES, 'more file')}")


def _top(console: Console, top: Iterable[Content]) -> None:
    tables.show(console, "The contents that save most:", "bold")
    seen = Counter[str]()
    chosen = []
    for it in top:
        seen[it.file] += 1
        if not it.file or seen[it.file] <= MOST_OF_A_FILE:
            chosen.append(it)
    rows = [
        (
            pages(it.saveable_pages),
            f"{it.copies:,}",
            it.kind,
            _told(it),
            _names(it.holders[:2]),
            _names(it.places[:1]),
        )
        for it in chosen[:MOST_CONTENTS]
    ]
    order = ("SAVES", "COPIES", "KIND", "CONTENT", "IN", "MAPPING")
    texts, figures = ("KIND", "CONTENT", "IN", "MAPPING"), ("SAVES", "COPIES")
    console.print(tables.fitted(rows, console.width, texts, figures, order, ("MAPPING", "IN")))


def _told(content: Content) -> str:
    if content.file:
        return f"{content.file} page {content.file_page:,}"
    if content.kind == "text":
        return plain(content.sample.rstrip(b"\0"), _TOLD)
    return content.sample[: 8 if content.kind == "repeated word" else 16].hex(" ", 8)


def _names(found: Iterable[tuple[str, int]]) -> str:
    return ", ".join(name for name, _ in found)


def figures(result: Contents) -> ContentsFigures:
    """Return the kinds and contents for JSON; keys name their units."""
    return {
        "kinds": [
            {
                "kind": kind.name,
                "saveable_bytes": kind.saveable_pages * PAGE_SIZE,
                "contents": kind.contents,
                "copies": kind.copies,
                "copies_by_name": dict(kind.holders.most_common(20)),
                "copies_by_mapping": dict(kind.places),
                "files": [
                    {"path": path, "build_id": build_id, "saveable_bytes": saves * PAGE_SIZE}
                    for (path, build_id), saves in kind.files.most_common(100)
                ],
            }
            for kind in result.kinds
        ],
        "top": [
            {
                "kind": it.kind,
                "saveable_bytes": it.saveable_pages * PAGE_SIZE,
                "copies": it.copies,
                "domain": it.domain,
                "file": it.file or None,
                "file_page": it.file_page if it.file else None,
                "build_id": it.build_id or None,
                "first_bytes": it.sample.hex(),
                "copies_by_name": dict(it.holders),
                "copies_by_mapping": dict(it.places),
            }
            for it in result.top
        ],
    }
