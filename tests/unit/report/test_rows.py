"""The table: the processes that save most, and what was left out."""

from __future__ import annotations

from typing import Any

from pagemerge.report import rows
from pagemerge.report.given import Given, Room
from tests.support import figures


def drawn(found: dict[str, Any], room: Room | None = None) -> rows.Table:
    made = rows.section(Given(found), room or Room())
    assert made is not None and isinstance(made.content, rows.Table)
    return made.content


def test_the_largest_are_listed_and_the_rest_is_summed() -> None:
    host = figures.host(2000)
    table = drawn(host)
    saves = sorted((it["saveable_bytes"] for it in host["processes"]), reverse=True)
    assert len(table.rows) == 500
    column = table.columns.index("Saves")
    assert column == table.sorted_by
    listed = [int(row.values.split(",")[2 + column]) for row in table.rows]
    assert listed == saves[:500]
    rest = f"{sum(saves[500:]) / 1e9:.2f} GB"
    assert table.more[0] == f"Left out: 1,278 more processes, which would save {rest} together."


def test_a_process_that_could_not_be_looked_at_is_below() -> None:
    table = drawn(figures.host(18))
    assert len(table.rows) == 16
    assert table.errors == (
        (
            "desktop-worker (1056) and desktop-worker (1119)",
            "process PID belongs to another user: to read /proc/PID/pagemap, run as that user or "
            "with CAP_SYS_PTRACE",
        ),
    )
    assert "2 processes could not be looked at: see below the table." in table.more
    assert "3 pages of 1 process could not be read: unmapped or changed meanwhile." in table.more
    assert table.more[-1] == "no process is named 'nginx'"


def test_columns_without_a_figure_are_not_there() -> None:
    image = {"pid": None, "name": "dump.raw", "uid": None, "pages": 9, "saveable_bytes": 4096}
    table = drawn({"processes": [image]})
    assert table.columns == ("Saves", "Looked at")
    assert table.rows[0].pid == "image" and table.rows[0].uid == ""
    assert table.rows[0].cells == ("4.10 kB", "36.9 kB")
    assert table.rows[0].values == "-1,-1,4096,36864"


def test_errors_are_bounded() -> None:
    failed = [{"pid": 7 + at, "name": "x", "error": f"error {'x' * at}"} for at in range(60)]
    table = drawn({"processes": failed})
    assert not table.rows and len(table.errors) == Room().items + 1
    assert table.errors[-1] == ("36 more processes", "36 other reasons")


def test_without_processes_there_is_no_table() -> None:
    assert rows.section(Given({"processes": []}), Room()) is None
    table = drawn({"processes": [], "not_found": ["no process is named 'a'"]})
    assert table.more == ("no process is named 'a'",)
    assert drawn({"processes": [{"pid": 3}], "processes_left_out": 2}).more == (
        "2 more processes were looked at, and left out by --top.",
    )
