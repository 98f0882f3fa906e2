"""Shows who shares with whom (``scan --group-by``), and what trust domains cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.figures import number, pages
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.cli.show.printed_scan import PriceFigures, SharingFigures
    from pagemerge.estimate.trust import Price
    from pagemerge.estimate.who import Sharing

MOST_GROUPS, MOST_PAIRS = 20, 10


def show(console: Console, result: Sharing) -> None:
    """Print the groups, and the pairs with most in common."""
    tables.show(console, f"Who shares with whom, by {result.kind}:", "bold")
    rows = [
        (
            it.name,
            f"{it.sources:,}",
            pages(it.pages),
            pages(it.zero_pages),
            pages(it.own_duplicate_pages),
            pages(it.shared_pages),
            pages(it.exclusive_pages),
            pages(it.saveable_pages),
        )
        for it in result.groups[:MOST_GROUPS]
    ]
    name = result.kind.upper()
    texts = (name,)
    figures = ("PROCESSES", "LOOKED AT", "ZERO", "OWN TWICE", "SHARED", "EXCLUSIVE", "SAVES")
    spare = ("PROCESSES", "OWN TWICE", "ZERO")
    console.print(tables.fitted(rows, console.width, texts, figures, (*texts, *figures), spare))
    if (left := len(result.groups) - MOST_GROUPS) > 0:
        tables.show(console, f"... and {number(left, 'more group')}")
    if result.pairs:
        tables.show(console, "Most in common (different pages, without zeros):", "bold")
        told = [
            (pages(it.contents), f"{it.first} and {it.second}") for it in result.pairs[:MOST_PAIRS]
        ]
        tables.items(console, told)


def show_price(console: Console, price: Price) -> None:
    """Print what keeping trust domains apart costs."""
    if price.domains > 1:
        told = (
            f"Pages are compared inside {number(price.domains, 'trust domain')}. If all were one, "
            f"merging would save {pages(price.together_pages)}: isolation costs "
            f"{pages(price.lost_pages)}. Zero pages alone, which hold no secret, would save "
            f"{pages(price.zero_pages)}."
        )
        tables.show(console, told)


def figures(result: Sharing) -> SharingFigures:
    """Return groups and pairs for JSON; keys name their units."""
    return {
        "group_by": result.kind,
        "groups": [
            {
                "name": it.name,
                "processes": it.sources,
                "pages": it.pages,
                "zero_pages": it.zero_pages,
                "own_duplicate_pages": it.own_duplicate_pages,
                "shared_pages": it.shared_pages,
                "exclusive_pages": it.exclusive_pages,
                "saveable_bytes": round(it.saveable_pages * PAGE_SIZE),
            }
            for it in result.groups
        ],
        "compared": list(result.compared),
        "pairs": [
            {"first": it.first, "second": it.second, "common_pages": it.contents}
            for it in result.pairs
        ],
    }


def price_figures(price: Price) -> PriceFigures:
    """Return the price of trust for JSON."""
    return {
        "domains": price.domains,
        "saveable_bytes_apart": price.apart_pages * PAGE_SIZE,
        "saveable_bytes_together": price.together_pages * PAGE_SIZE,
        "saveable_bytes_zero_only": price.zero_pages * PAGE_SIZE,
    }
