"""``pagemerge history``: words, table and chart of moments made by hand."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from pagemerge.cli.history import duration_of
from pagemerge.cli.show import history as view
from pagemerge.cli.show.chart import HEIGHT, MARGIN, chart
from pagemerge.watch.model import Decision, Moment
from pagemerge.watch.summary import Slices
from tests.unit.watch.moments import kernel, moment, user

START = 1_800_000_000.0
MB = 1_000_000


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def hours() -> list[Moment]:
    """Two hours: the saving rises from 0 to 120 MB."""
    told = (Decision(START + 60, "5.1 MB to go"), Decision(START + 70, "it seems \x1b done"))
    return [
        moment(
            START + 60 * at,
            user=user(saved_bytes=at * MB, separations=60 * at, cpu_seconds=0.6 * at),
            kernel=kernel(saved_bytes=0, cpu_seconds=0),
            decisions=told if at == 2 else (),
        )
        for at in range(121)
    ]


def drawn(width: int = 100) -> list[str]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        assert view.show(console, hours(), START + 7260)
    return capture.get().splitlines()


def test_the_answer_comes_first() -> None:
    lines = drawn()
    assert lines[0] == (
        "Merging saves 120 MB now. Over 2 h it saved 60.0 MB on average, 120 MB at most (10:00) "
        "and 0 bytes at least (08:00)."
    )
    assert lines[1] == (
        "Programs wrote to 7,200 merged pages (1.0 per second), and merging took 1.0% of a core."
    )
    assert lines[2] == (
        "The governor decided 2 times, most often (1) because ksmd had more to merge; the last "
        "time, at 08:01: it seems \\x1b done."
    )


def test_the_table_has_a_line_for_each_stretch() -> None:
    head, *rows = drawn()[4:]
    assert head.split() == [
        *("from", "saved", "least", "most", "user", "kernel", "available", "unshared/s", "cost")
    ]
    assert len(rows) == 12
    assert rows[0].split()[0] == "08:00" and rows[-1].split()[0] == "09:50"
    assert all(row.rstrip().endswith("1.0  1.0%") for row in rows)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_table_fits_its_screen(width: int) -> None:
    assert all(len(line) <= width for line in drawn(width)[4:])


def test_an_old_moment_is_not_called_now() -> None:
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        assert view.show(console, hours(), START + 3 * 3600)
    assert "at the last moment recorded, 60 min ago" in capture.get()


def test_the_chart_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert view.show_chart(Console(width=300, force_terminal=False), hours(), START + 7200)
    lines = capsys.readouterr().out.splitlines()
    picture = lines[lines.index("Saved bytes over time:") + 1 :]
    assert len(picture) == HEIGHT + 2
    assert max(map(len, picture)) == 80
    filled = [sum(it in "▁▂▃▄▅▆▇█" for it in line[MARGIN:]) for line in picture[:HEIGHT]]
    assert filled == sorted(filled) and filled[0] < 10 and filled[-1] > 60
    assert picture[0].strip().startswith("119 MB")
    assert picture[-1].split() == ["08:00", "09:00", "10:00"]


def test_a_chart_without_blocks() -> None:
    lines = chart([0, 50.0, 100.0, None, 100.0], 0, 600, encoding="ascii")
    assert all(line.isascii() for line in lines)
    assert lines[0] == "100 bytes |  # #"
    assert lines[HEIGHT // 2].endswith("| ## #")
    assert chart([1.0], 0, 1, encoding="no-such-encoding")[0].isascii()


def test_a_chart_of_nothing() -> None:
    assert re.fullmatch(r" +1 bytes │", chart([0, 0, None], 0, 60)[0])


def test_a_time_that_nothing_was_recorded_in_is_a_gap() -> None:
    gap = [moment(START), moment(START + 60), moment(START + 86_400)]
    slices = Slices(START, START + 86_400, 24)
    for it in gap:
        slices.add(it)
    assert view._columns(slices) == [0.0, *[None] * 22, 0.0]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("3d", 259200), ("1w", 604800)]
)
def test_times_are_read(text: str, seconds: int) -> None:
    assert duration_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "0h", "1.5h", "2 h", "2H", "9" * 20 + "s"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a time such as"):
        duration_of(text)
