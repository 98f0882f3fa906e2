"""``pagemerge scan --sample``: how estimates made by hand are told."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.cells import cell_len

from pagemerge.cli.show import sample, tables
from pagemerge.estimate.interval import Interval
from pagemerge.estimate.sample import Estimate, Sampled
from pagemerge.linux.domain import Domain

GB = 10**9 / 4096
TOTAL = Sampled(
    None, 12, round(16 * GB), round(GB), 10_000, 0, Interval(3 * GB, 2.9 * GB, 3.2 * GB)
)
DOMAINS = [
    replace(
        TOTAL, domain=Domain(1000 + at, label="long-label" * 9), saveable=Interval(at, 0.0, 1e8)
    )
    for at in range(25)
]
RESULT = Estimate(TOTAL, DOMAINS[:1], [], 1, 2.5)


def shown(result: Estimate, width: int = 200) -> list[str]:
    """The lines on a screen of that width."""
    out, console = io.StringIO(), tables.console()
    console.width, console.file = width, out
    sample.show(console, result)
    return out.getvalue().split("\n")


def test_the_first_line_is_the_answer() -> None:
    lines = shown(RESULT)
    assert lines[0] == "Merging would save about 3.00 GB of 16.0 GB looked at, in 12 sources:"
    words = " ".join(" ".join(lines[1:]).split())
    assert words.startswith("2.90 GB at least, and 3.20 GB at most: the true value")
    assert "1.00 GB zero pages, counted exactly" in words
    assert "changed" not in words
    assert "DOMAIN" not in words, "one domain is the total"


def test_what_changed_is_told() -> None:
    words = " ".join(shown(replace(RESULT, total=replace(TOTAL, changed_pages=1))))
    assert "4.10 kB  of these changed during the scan (1 page)" in words


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_nothing_is_too_wide(width: int) -> None:
    lines = shown(replace(RESULT, domains=DOMAINS), width)
    assert all(cell_len(line) <= width for line in lines)
    heading = next(line for line in lines if line.startswith("DOMAIN")).split()
    assert {"SAVES", "LEAST", "MOST"} <= set(heading)
    rows = [line for line in lines if line.startswith("uid")]
    assert len(rows) == sample.TOP
    assert all("410 GB" in row for row in rows)
    assert rows[0].split()[1].startswith("1024"), "what saves most comes first"
    assert "... and 5 more domains, which would save about 41.0 kB" in lines


def test_names_from_outside_control_nothing() -> None:
    bad = "evil\x1b[2J\nname"
    errors = [(bad, "it has \x9b exited"), ("other", "it has \x9b exited")]
    lines = shown(replace(RESULT, errors=errors))
    told = next(line for line in lines if "evil" in line)
    assert told == r"evil\x1b[2J\nname and 1 more: it has \x9b exited"


def test_figures_name_their_units() -> None:
    found = json.loads(json.dumps(sample.figures(replace(RESULT, errors=[("a", "gone")]))))
    total = found["total"]
    assert total["saveable_bytes_low"] < total["saveable_bytes"] < total["saveable_bytes_high"]
    assert total["saveable_bytes"] == 3 * 10**9
    assert found["errors"] == [{"name": "a", "error": "gone"}]
    assert found["domains"][0]["domain"].startswith("uid 1000, long-label")
    assert set(found["domains"][0]) == {"domain", *total}
