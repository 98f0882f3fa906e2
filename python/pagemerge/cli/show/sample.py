"""Shows an estimate from a sample: the answer in words with its interval, then the domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.figures import number, pages
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.cli.show.printed_forecast import EstimateFigures, SampledFigures
    from pagemerge.estimate.interval import Interval
    from pagemerge.estimate.sample import Estimate, Sampled

TOP = 20
"""Domains that are listed at most."""


def show(console: Console, result: Estimate) -> None:
    """Print the answer in words, how it was estimated, a line for each domain, then what failed."""
    from rich.text import Text

    total = result.total
    answer = Text("Merging would save about ")
    answer.append(pages(total.saveable.pages), style="bold")
    sources = number(total.sources, "source")
    console.print(answer.append(f" of {pages(total.pages)} looked at, in {sources}:"))
    tables.items(console, _parts(total))
    if len(result.domains) > 1:
        console.print()
        _domains(console, result.domains)
    _notes(console, result)


def _parts(total: Sampled) -> list[tuple[str, str]]:
    low, high = _ends(total.saveable)
    found = [
        (low, "at least, and"),
        (high, "at most: the true value lies between these with a probability of 95%"),
        (pages(total.zero_pages), "zero pages, counted exactly"),
        (
            pages(total.sampled_pages),
            f"drawn at random ({number(total.sampled_pages, 'page')}); the copies of each page "
            "were counted among all pages",
        ),
    ]
    if total.changed_pages:
        changed = f"of these changed during the scan ({number(total.changed_pages, 'page')}): "
        why = "taken as unique; the upper end allows for duplicates"
        found.append((pages(total.changed_pages), changed + why))
    return found


def _domains(console: Console, domains: list[Sampled]) -> None:
    rows = []
    ordered = sorted(domains, key=lambda it: -it.saveable.pages)
    for one in ordered[:TOP]:
        counted = (pages(one.pages), pages(one.zero_pages), pages(one.saveable.pages))
        rows.append([str(one.domain), str(one.sources), *counted, *_ends(one.saveable)])
    names = ("DOMAIN", "SOURCES", "LOOKED AT", "ZERO", "SAVES", "AT LEAST", "AT MOST")
    spare = ("SOURCES", "ZERO", "LOOKED AT")
    console.print(tables.fitted(rows, console.width, names[:1], names[1:], names, spare))
    if rest := ordered[TOP:]:
        saved = pages(sum(it.saveable.pages for it in rest))
        others = number(len(rest), "more domain", "more domains")
        tables.show(console, f"... and {others}, which would save about {saved}")


def _notes(console: Console, result: Estimate) -> None:
    """Print what could not be read; sources with the same reason share a line."""
    said: dict[str, list[str]] = {}
    for name, error in result.errors:
        said.setdefault(error, []).append(name)
    for error, names in said.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        tables.show(console, f"{names[0]}{others}: {error}")


def figures(result: Estimate) -> EstimateFigures:
    """Return the estimate for JSON; keys name their units."""
    return {
        "total": _figures(result.total),
        "domains": [{"domain": str(it.domain), **_figures(it)} for it in result.domains],
        "errors": [{"name": name, "error": error} for name, error in result.errors],
        "confidence_percent": 95,
        "page_size": PAGE_SIZE,
        "bytes_read": result.bytes_read,
        "seconds": round(result.seconds, 6),
    }


def _figures(one: Sampled) -> SampledFigures:
    return {
        "sources": one.sources,
        "pages": one.pages,
        "zero_pages": one.zero_pages,
        "sampled_pages": one.sampled_pages,
        "changed_pages": one.changed_pages,
        "saveable_bytes": round(one.saveable.pages * PAGE_SIZE),
        "saveable_bytes_low": round(one.saveable.low_pages * PAGE_SIZE),
        "saveable_bytes_high": round(one.saveable.high_pages * PAGE_SIZE),
    }


def _ends(saveable: Interval) -> tuple[str, str]:
    return pages(saveable.low_pages), pages(saveable.high_pages)
