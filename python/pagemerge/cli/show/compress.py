"""Shows what compression would save beside merging (``scan --compress``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.figures import number, precise
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.cli.show.printed_forecast import CompressFigures, IntervalFigures
    from pagemerge.estimate.compress import Compression, Estimate


def show(console: Console, result: Compression) -> None:
    """Print the answer in words, then a row for each way to save, then near duplicates."""
    from rich.text import Text

    memory = result.pages * PAGE_SIZE
    best = max(result.compressors, key=lambda it: it.both.value)
    answer = Text(f"Merging saves {precise(result.merging_bytes)} of {precise(memory)}; ")
    answer.append(f"zram ({best.name}) would save ", style="bold")
    answer.append(f"{precise(best.beside.value)} more", style="bold")
    answer.append(f", or {precise(best.alone.value)} without merging.")
    console.print(answer)
    console.print()
    columns = ("WAY", "SAVES", "FROM", "TO", "LEFT")
    rows = [[name, *_cells(saves, memory)] for name, saves in _ways(result)]
    console.print(
        tables.fitted(rows, console.width, ("WAY",), columns[1:], columns, ("FROM", "TO"))
    )
    for note in _notes(result):
        tables.show(console, note)


def figures(result: Compression) -> CompressFigures:
    """Return the estimate for JSON; keys name their units."""
    near = result.near
    return {
        "looked_at_bytes": result.pages * PAGE_SIZE,
        "zero_bytes": result.zero_pages * PAGE_SIZE,
        "kept_by_merging_bytes": result.kept_pages * PAGE_SIZE,
        "merging_saves_bytes": result.merging_bytes,
        "compressors": {
            it.name: {
                "saves_alone_bytes": _rounded(it.alone),
                "saves_beside_merging_bytes": _rounded(it.beside),
                "saves_with_merging_bytes": _rounded(it.both),
            }
            for it in result.compressors
        },
        "same_filled_share_of_kept": round(result.same_filled, 6),
        "near_duplicates_share_of_kept": {
            "value": round(near.share.value, 6),
            "low": round(near.share.low, 6),
            "high": round(near.share.high, 6),
            "mostly_zero": round(near.mostly_zero, 6),
            "at_least": not near.whole,
        },
        "sampled_pages": result.sampled_pages,
        "lost_pages": result.lost_pages,
        "changed_pages": result.changed_pages,
        "seconds": round(result.seconds, 6),
    }


def _rounded(estimate: Estimate) -> IntervalFigures:
    value, low, high = estimate.value, estimate.low, estimate.high
    return {"value": round(value), "low": round(low), "high": round(high)}


def _ways(result: Compression) -> list[tuple[str, Estimate | int]]:
    ways: list[tuple[str, Estimate | int]] = [("merging", result.merging_bytes)]
    ways += [(it.name, it.alone) for it in result.compressors]
    ways += [(f"merging and {it.name}", it.both) for it in result.compressors]
    return ways


def _cells(saves: Estimate | int, memory: int) -> list[str]:
    if isinstance(saves, int):
        return [precise(saves), "-", "-", precise(memory - saves)]
    sizes = (saves.value, saves.low, saves.high, memory - saves.value)
    return [precise(it) for it in sizes]


def _notes(result: Compression) -> list[str]:
    """List how sure the figures are, what they suppose, and how many pages are nearly equal."""
    notes = [
        f"FROM, TO: 95% interval, from a sample of {number(result.sampled_pages, 'page')}. "
        "Compression saves only what is not in use: so much if everything is swapped to zram.",
        _about_near(result),
    ]
    if result.lost_pages or result.changed_pages:
        lost = number(result.lost_pages, "sampled page")
        notes.append(
            f"{lost} had gone when they were read, and {result.changed_pages:,} had changed."
        )
    return notes


def _about_near(result: Compression) -> str:
    near, kept = result.near, result.kept_pages * PAGE_SIZE
    share = near.share
    least = "" if near.whole else "At least "
    figure = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
    told = (
        f"{least}{figure} of the {precise(kept)} that merging keeps are nearly equal to another "
        "page (12 of their 16 blocks of 256 bytes): neither engine merges these"
    )
    zeros = f"; {near.mostly_zero:.1%} are mostly zeros" if near.mostly_zero else ""
    return f"{told}{zeros}."
