"""How estimates of compression made by hand are told."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from pagemerge.cli.show import compress as view
from pagemerge.cli.show.words import as_json
from pagemerge.estimate.compress import Compression, Compressor, Estimate, Near

GB, PAGES = 10**9, 10**9 // 4096


def about(value: float) -> Estimate:
    return Estimate(value, 0.9 * value, 1.1 * value)


RESULT = Compression(
    zero_pages=PAGES,
    freed_pages=2 * PAGES,
    kept_pages=4 * PAGES,
    sampled_pages=4000,
    lost_pages=3,
    changed_pages=12,
    same_filled=0.01,
    compressors=(
        Compressor("lz4", about(3.5 * GB), about(1.25 * GB), about(4.2 * GB)),
        Compressor("zstd", about(4.1 * GB), about(1.75 * GB), about(4.7 * GB)),
    ),
    near=Near(Estimate(0.031, 0.026, 0.037), 0.012, whole=False),
    seconds=1.0,
)


def shown(result: Compression, width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, no_color=True, highlight=False)
    view.show(console, result)
    return out.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_the_first_line_is_the_answer() -> None:
    assert shown(RESULT, 200).splitlines()[0] == (
        "Merging saves 3.00 GB of 7.00 GB; zram (zstd) would save 1.75 GB more, "
        "or 4.10 GB without merging."
    )


@pytest.mark.parametrize("width", [60, 80, 100])
def test_it_fits_the_screen(width: int) -> None:
    lines = shown(RESULT, width).splitlines()
    assert max(cell_len(line) for line in lines) <= width
    row = next(line.split() for line in lines if line.startswith("merging and zstd"))
    assert (
        row
        == ["merging", "and", "zstd", "4.70", "GB", "4.23", "GB", "5.17", "GB", "2.30", "GB"][:3]
        + row[3:]
    )
    assert row[3:] == ["4.70", "GB", "4.23", "GB", "5.17", "GB", "2.30", "GB"]


def test_notes() -> None:
    text = " ".join(shown(RESULT, 80).split())
    assert "from a sample of 4,000 pages" in text
    assert "At least 3.1% (2.6% to 3.7%) of the 4.00 GB that merging keeps" in text
    assert "1.2% are mostly zeros" in text
    assert "3 sampled pages had gone when they were read, and 12 had changed" in text
    whole = replace(RESULT, near=replace(RESULT.near, whole=True), lost_pages=0, changed_pages=0)
    text = " ".join(shown(whole, 80).split())
    assert "At least" not in text
    assert "had gone" not in text


def test_figures() -> None:
    read = json.loads(as_json(view.figures(RESULT)))
    assert read["merging_saves_bytes"] == 3 * PAGES * 4096
    zstd = read["compressors"]["zstd"]
    assert zstd["saves_with_merging_bytes"]["value"] == 4_700_000_000
    assert zstd["saves_alone_bytes"]["low"] < zstd["saves_alone_bytes"]["high"]
    assert read["near_duplicates_share_of_kept"]["at_least"] is True
