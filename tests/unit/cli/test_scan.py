"""``pagemerge scan``: how surveys made by hand are told; and what stable pages save."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len

from pagemerge.cli.show import selection, tables
from pagemerge.cli.show import survey as view
from pagemerge.find import eligible
from pagemerge.find.stable import Stable, Stretch, count
from pagemerge.find.survey import Row, Survey
from pagemerge.find.tally import Totals
from pagemerge.ksmd.model import Selection
from pagemerge.linux.maps import parse
from pagemerge.model import PAGE_SIZE

WIDTHS = (60, 80, 100, 200)
BIG = 250_000_000
TOTALS = Totals(
    pages=BIG,
    zero_pages=2000,
    already_shared_pages=500,
    saveable_zero_pages=1000,
    saveable_within_pages=300,
    saveable_across_pages=200,
    markable_pages=1200,
)
ROWS = [
    Row(
        "a-long-name-123",
        4_194_303 - at,
        4_294_967_294,
        pages=BIG,
        zero_pages=BIG,
        duplicate_pages=BIG,
        shared_pages=BIG,
        saveable_bytes=999_000_000_000,
        merged_pages=BIG,
    )
    for at in range(12)
]
DENIED = [Row("systemd", at, at, error=f"uid {at}", denied=True) for at in range(1, 8)]
SURVEY = Survey(
    ROWS, TOTALS, Stable(10_000, 100), dict.fromkeys(eligible.REASONS, 4096), 9, 1.0, 1.0
)


def shown(
    result: Survey, width: int = 200, top: int | None = None, missing: tuple[str, ...] = ()
) -> list[str]:
    """The lines on a screen of that width."""
    out, console = io.StringIO(), tables.console()
    console.width, console.file = width, out
    view.show_answer(result, console)
    view.show_rows(result.rows, console, top, missing)
    return out.getvalue().split("\n")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_or_too_wide(width: int) -> None:
    lines = shown(replace(SURVEY, rows=ROWS + DENIED), width)
    assert all(cell_len(line) <= width for line in lines)
    heading = next(line for line in lines if "PID" in line).split()
    rows = [line for line in lines if line.startswith("419")]
    assert len(rows) == len(ROWS)
    for row in rows:
        assert "…" not in row.replace("a-long-name-123", "").partition("…")[2], "figures are whole"
        sizes = sum(it in heading for it in ("ZERO", "DUPLICATE", "SHARED", "MERGED"))
        assert row.count("1.02 TB") == sizes + 1
        assert "999 GB" in row
    assert {"PID", "NAME", "SAVES", "MERGED"} <= set(heading)
    assert ("UID" in heading) == (width > 80)


def test_a_screen_that_is_too_narrow_for_all_is_no_error() -> None:
    plain = [Row("name", 7, 0, pages=5, saveable_bytes=4096)]
    assert any("4.10 kB" in line for line in shown(replace(SURVEY, rows=plain), 30))


def test_the_parts_make_the_sum() -> None:
    lines = shown(SURVEY)
    assert lines[0] == "Merging would save 6.14 MB more of 1.02 TB looked at, in 12 processes:"
    parts = [line.split("  ")[-1] for line in lines[1:4]]
    assert parts == ["zero pages", "duplicates within a process", "duplicates across processes"]
    assert [line.split()[0] for line in lines[1:4]] == ["4.10", "1.23", "819"]
    told = "\n".join(lines)
    assert "40.6 MB  merged by pagemerge: 41.0 MB mapped, kept in 410 kB" in told
    assert told.index("Saved before, and not counted above") < told.index("2.05 MB  shared since")
    nothing = replace(SURVEY, merged=Stable(), totals=replace(TOTALS, already_shared_pages=0))
    assert "Saved before" not in "\n".join(shown(nothing))
    assert shown(nothing)[0].startswith("Merging would save 6.14 MB of ")


def test_it_says_which_engine_could() -> None:
    lines = shown(SURVEY)
    kernel, user = lines[lines.index("What each engine could save of it:") + 1 :][:2]
    assert kernel.startswith("    6.14 MB  the kernel engine, for each user separately")
    assert user.startswith("    4.92 MB  at most the user engine") and "pagemerge run" in user
    nothing = replace(SURVEY, totals=Totals(pages=7))
    assert "What each engine could save of it:" not in shown(nothing)


def test_top_says_what_it_leaves_out() -> None:
    lines = shown(SURVEY, top=5)
    assert sum(line.startswith("419") for line in lines) == 5
    assert "... and 7 more processes, which would save 6.99 TB" in lines
    figures = view.figures(SURVEY, ROWS, top=5)
    assert (len(figures["processes"]), figures["processes_left_out"]) == (5, 7)
    assert not any("more process" in line for line in shown(SURVEY, top=12))


def test_refusals_are_one_row() -> None:
    lines = shown(replace(SURVEY, rows=[*ROWS, *DENIED]))
    assert [line.split()[:3] for line in lines if "systemd" in line or " 7 processes" in line] == [
        ["-", "7", "processes"]
    ]
    assert any(line.startswith("7 processes may not be looked at: ") for line in lines)
    alone = shown(replace(SURVEY, rows=[*ROWS, DENIED[0]]))
    assert "process 1 (systemd): uid 1" in alone


def test_who_is_not_there_is_told_below() -> None:
    assert "no process has the pid 9" in shown(SURVEY, missing=("no process has the pid 9",))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_selection_fits(width: int) -> None:
    empty = np.empty(0, np.uint64)
    one = Selection(
        pid=4_194_303,
        name="a-long-name-123",
        start=empty,
        end=empty,
        looked=BIG,
        marked=BIG,
        duplicates=BIG,
        gain=float(BIG),
        mappings=60_000,
        left_out=0,
        error="",
    )
    out, console = io.StringIO(), tables.console()
    console.width, console.file = width, out
    console.print(selection.processes([one], width))
    heading, row, _ = out.getvalue().split("\n")
    assert max(cell_len(heading), cell_len(row)) <= width
    assert row.count("1.0 TB") == (4 if width > 60 else 3)
    assert ("new mappings" in heading) == (width > 80)


def stretch(line: str, *runs: tuple[int, int]) -> Stretch:
    """Of a line of maps; ``runs`` are the first and the number of pages that were written."""
    mapping = parse(line.encode())
    assert mapping and mapping.slab
    starts = [mapping.start + first * PAGE_SIZE for first, _ in runs]
    pages = [pages for _, pages in runs]
    return Stretch.of(mapping, np.array(starts, np.uint64), np.array(pages, np.uint64))


def test_what_slabs_save() -> None:
    slab = "rw-p {:08x} 00:01 {} /memfd:pagemerge-slab (deleted)"
    one = stretch("1000-5000 " + slab.format(0x2000, 7))  # slots 2 to 5
    two = stretch("9000-c000 " + slab.format(0x4000, 7), (1, 1))  # slots 4 and 6; 5 is written
    other = stretch("1000-2000 " + slab.format(0x2000, 8))
    adjacent = stretch("1000-5000 " + slab.format(0, 9), (0, 1), (1, 2))
    assert count([]) == Stable()
    assert count([one]) == Stable(pages=4, slots=4)
    assert count([one, two]) == Stable(pages=6, slots=5)
    assert count([one, two]).saved_pages == 1
    assert count([one, other]) == Stable(pages=5, slots=5), "equal slots of two slabs are two"
    assert count([adjacent]) == Stable(pages=1, slots=1)
    assert count([one, one, two, other, adjacent]) == Stable(pages=12, slots=7)


def test_the_user_is_told_where_there_are_several() -> None:
    small = [replace(ROWS[0], name="a", pid=at, uid=at) for at in (1, 2)]
    for rows, has in ((small, True), ([small[0]] * 2, False)):
        heading = next(line for line in shown(replace(SURVEY, rows=rows), 70) if "PID" in line)
        assert ("UID" in heading) is has


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_without_columns_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "0")
    tables.show(tables.console(), "Merging would save 4.10 kB of 1.02 MB looked at.")
    assert "Merging would save" in terminal.getvalue()
