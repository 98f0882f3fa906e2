"""Shows how duplicates last (``scan --watch``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.figures import duration, number, pages
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.cli.show.printed_scan import WatchFigures
    from pagemerge.estimate.looks import Watched


def show(console: Console, it: Watched) -> None:
    """Print how much of the saving lasts."""
    looks = number(it.looks, "look")
    tables.show(console, f"Over {duration(it.seconds)}, in {looks}:", "bold")
    told = [
        (pages(it.stable_pages), "stable: these duplicates did not change from first to last look"),
        (pages(it.volatile_pages), "volatile: the programs write to these pages"),
        (pages(it.new_pages), "new: these pages were not there at the first look"),
        (pages(it.gone_pages), "gone: duplicates of the first look whose memory was freed since"),
    ]
    tables.items(console, told)
    spread = f"{pages(it.least_pages)} to {pages(it.most_pages)}"
    tables.show(
        console,
        f"Expect to save {pages(it.expected_pages)} ({spread}): what was still equal one look "
        f"later. Programs write to {it.unshared_per_second:,.1f} duplicates a second, and each "
        "would take a page again.",
    )


def figures(it: Watched) -> WatchFigures:
    """Return the watch for JSON; keys name their units."""
    return {
        "looks": it.looks,
        "seconds": it.seconds,
        "saveable_pages": it.saveable_pages,
        "stable_pages": it.stable_pages,
        "volatile_pages": it.volatile_pages,
        "new_pages": it.new_pages,
        "gone_pages": it.gone_pages,
        "least_pages": it.least_pages,
        "most_pages": it.most_pages,
        "expected_bytes": round(it.expected_pages * PAGE_SIZE),
        "unshared_pages_per_second": round(it.unshared_per_second, 3),
    }
