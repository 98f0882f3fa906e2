"""The price of trust, and how the saving lasts."""

from __future__ import annotations

from pagemerge.report import trust
from pagemerge.report.given import Given, Room
from pagemerge.report.shapes import Bars
from tests.support import figures


def test_the_price_is_the_difference() -> None:
    found = {"domains": 3, "saveable_bytes_apart": 600, "saveable_bytes_together": 800}
    made = trust.price(Given({"trust": found | {"saveable_bytes_zero_only": 200}}), Room())
    assert made is not None and isinstance(made.content, Bars)
    assert made.words == (
        "Keeping 3 trust domains apart costs 200 bytes, 25% of what merging would save if all were "
        "one.",
        "Zero pages alone, which hold no secret, would save 200 bytes.",
    )
    assert [it.width for it in made.content.rows] == ["100%", "75%", "25%"]


def test_one_domain_costs_nothing() -> None:
    found = {"domains": 1, "saveable_bytes_apart": 600, "saveable_bytes_together": 600}
    made = trust.price(Given({"trust": found}), Room())
    assert made is not None and "isolation costs nothing" in made.words[0]
    assert trust.price(Given({"trust": {"domains": 2}}), Room()) is None
    assert trust.price(Given({}), Room()) is None


def test_what_lasts_is_drawn_with_its_spread() -> None:
    made = trust.lasting(Given(figures.host()), Room())
    assert made is not None and isinstance(made.content, trust.Lasting)
    assert made.words[0] == (
        "Expect to save 383 MB (323 MB to 415 MB): what was still equal one look later."
    )
    assert "Seen over 60 s, in 7 looks. Programs write to 41.2 duplicates a second" in made.words[1]
    stable, volatile, new = made.content.stack.segments
    assert (stable.part, volatile.part, new.part) == ("80%", "10%", "10%")
    whole, expected = made.content.expected.rows
    assert whole.width == "100%"
    assert (expected.low, expected.width, expected.high) == ("70%", "83%", "90%")
    assert made.content.expected.more.endswith("freed since: 5.05 MB.")


def test_without_a_watch_there_is_no_section() -> None:
    assert trust.lasting(Given({"watch": {"looks": 0}}), Room()) is None
    assert trust.lasting(Given({"watch": "often"}), Room()) is None
