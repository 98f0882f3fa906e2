"""The price of trust, and how the saving lasts: two short sections."""

from __future__ import annotations

from dataclasses import dataclass

from pagemerge.figures import duration, number, precise
from pagemerge.report.given import Given, Room, page_size
from pagemerge.report.shapes import Bar, Bars, Section, Stack, bars, percent, stack
from pagemerge.report.words import part


@dataclass(frozen=True, slots=True)
class Lasting:
    """What the template draws of ``--watch``."""

    stack: Stack
    expected: Bars


def price(figures: Given, _room: Room) -> Section | None:
    """Compare what is saved with domains apart, as one, and with zero pages only."""
    found = figures.part("trust")
    apart, together = (found.number(f"saveable_bytes_{it}") for it in ("apart", "together"))
    zero = found.number("saveable_bytes_zero_only")
    if not together and not apart:
        return None
    domains, lost = found.number("domains"), max(together - apart, 0.0)
    if domains > 1:
        words = [
            f"Keeping {number(domains, 'trust domain')} apart costs {precise(lost)}, "
            f"{part(lost, together)} of what merging would save if all were one."
        ]
    else:
        words = ["All pages that were looked at lie in one trust domain: isolation costs nothing."]
    words.append(f"Zero pages alone, which hold no secret, would save {precise(zero)}.")
    rows = [
        ("all domains as one", together, "pages of any two processes may merge"),
        ("domains apart", apart, "the default: pages merge inside a trust domain only"),
        ("zero pages only", zero, "no process can learn from these what another one holds"),
    ]
    drawn = bars("What merging would save", rows)
    return Section("trust", "The price of trust", tuple(words), drawn)


def lasting(figures: Given, _room: Room) -> Section | None:
    """Say which duplicates last, as ``--watch`` has seen it."""
    found = figures.part("watch")
    saves = found.number("saveable_pages")
    if not found.number("looks"):
        return None
    size_of = page_size(figures)
    expected, low, high = (
        found.number("expected_bytes"),
        found.number("least_pages") * size_of,
        found.number("most_pages") * size_of,
    )
    words = (
        f"Expect to save {precise(expected)} ({precise(low)} to {precise(high)}): what was still "
        "equal one look later.",
        f"Seen over {duration(found.number('seconds'))}, in {number(found.number('looks'), 'look')}"
        f". Programs write to {found.number('unshared_pages_per_second'):,.1f} duplicates a "
        "second, and each of them would take a page again.",
    )
    parts = [
        ("across", "stable", "did not change from the first look to the last", "stable_pages"),
        ("volatile", "volatile", "the programs write to these pages", "volatile_pages"),
        ("zero", "new", "were not there at the first look", "new_pages"),
    ]
    drawn = [(colour, name, told, found.number(key) * size_of) for colour, name, told, key in parts]
    whole = max(saves * size_of, high, expected)
    gone = found.number("gone_pages") * size_of
    rows = [
        Bar("at the last look", precise(saves * size_of), percent(saves * size_of, whole)),
        Bar(
            "still saved one look later",
            precise(expected),
            percent(expected, whole),
            f"from {precise(low)} to {precise(high)}",
            "across",
            percent(low, whole),
            percent(high, whole),
        ),
    ]
    more = f"Duplicates of the first look whose memory was freed since: {precise(gone)}."
    content = Lasting(
        stack("What merging would save, by how long it lasts", drawn),
        Bars("What merging would save", tuple(rows), more if gone else ""),
    )
    return Section("lasts", "How it lasts", words, content)
