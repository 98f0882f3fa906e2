"""Estimate, forecast and compression: the figures of these views, in words and bars."""

from __future__ import annotations

from pagemerge.report import forecast
from pagemerge.report.given import Given, Room
from pagemerge.report.shapes import Bars
from tests.support import figures


def test_a_sample_has_an_interval() -> None:
    made = forecast.sampled(Given({"sample": figures.sample()}), Room())
    assert made is not None and isinstance(made.content, Bars)
    assert made.words[0] == (
        "Merging would save about 5.45 GB: the true value lies between 5.30 GB and 5.61 GB with a "
        "probability of 95%."
    )
    total, large, small = made.content.rows
    assert (large.label, small.label) == ("uid 33", "uid 0")
    assert float(total.low[:-1]) < float(total.width[:-1]) < float(total.high[:-1])
    assert forecast.sampled(Given({"sample": {"total": {"pages": 0}}}), Room()) is None


def test_a_sample_without_an_interval_is_a_point() -> None:
    total = {"pages": 10, "saveable_bytes": 4096}
    made = forecast.sampled(Given({"sample": {"total": total}}), Room())
    assert made is not None and "between 4.10 kB and 4.10 kB" in made.words[0]


def test_how_many_more_fit() -> None:
    made = forecast.fit(Given({"fit": figures.fit()}), Room())
    assert made is not None and isinstance(made.content, forecast.Forecast)
    assert made.words == (
        "This many more like web-worker fit: 38 without merging, 66 with the kernel engine, 57 "
        "with the user engine, 37 whatever they write.",
        "8.39 GB is left for them, with a reserve of 1.05 GB.",
    )
    plans = {it.name: it for it in made.content.plans}
    assert plans["without merging"].full_after == "never"
    assert plans["with the kernel engine"].missing == "2.73 GB"
    assert [it.width for it in made.content.costs.rows] == ["99.1%", "56.6%", "66%", "100%"]
    assert forecast.fit(Given({"fit": {"plans": []}}), Room()) is None


def test_compression_is_compared() -> None:
    made = forecast.compress(Given({"compress": figures.compress()}), Room())
    assert made is not None and isinstance(made.content, Bars)
    assert [(it.label, it.value) for it in made.content.rows] == [
        ("merging", "1.89 GB"),
        ("lz4", "3.67 GB"),
        ("zstd", "4.72 GB"),
        ("merging and lz4", "4.61 GB"),
        ("merging and zstd", "5.56 GB"),
    ]
    assert made.words[1].startswith("At least 7.0% of the pages that merging keeps are nearly")
    assert forecast.compress(Given({"compress": {"looked_at_bytes": 5}}), Room()) is None
