"""The lines of the table: grouped, filtered, sorted, and told apart."""

from __future__ import annotations

from msgspec.structs import replace

from pagemerge.watch.model import Row
from pagemerge.watch.top.lines import KINDS, SORTS, Line, arranged
from tests.support.hostile import assert_plain
from tests.support.moments import recording

ROWS = recording()[-1].rows
ENEMY = "\x1b[2J[red]\u202e日本\n"


def rate(row: Row) -> float | None:
    return None if row.separations is None else float(row.pid)


def lines(kind: str = "process", sort: str = "saved", wanted: str = "") -> list[Line]:
    return arranged(ROWS, rate, kind, sort, wanted)


def test_each_order_sorts_by_its_figure() -> None:
    for sort in SORTS:
        found = lines(sort=sort)
        assert {line.rows for line in found} == {(row,) for row in ROWS}
        back = arranged(ROWS, rate, "process", sort, reverse=True)
        assert back != found
    saved = [line.saved_bytes for line in lines()]
    assert saved == sorted(saved, reverse=True) and saved[0] > saved[-1]
    names = [line.name for line in lines(sort="name")]
    assert names == sorted(names) and names[0] < names[-1]
    rates = [line.unsharing for line in lines(sort="unsharing")]
    known = [one for one in rates if one is not None]
    assert rates[: len(known)] == sorted(known, reverse=True)
    assert None in rates  # those that are not known come last


def test_equal_lines_keep_the_order_of_their_pids() -> None:
    same = [replace(row, saved_bytes=5) for row in ROWS]
    for reverse in (False, True):
        found = arranged(same, rate, "process", "saved", reverse=reverse)
        assert [line.pid for line in found] == [row.pid for row in ROWS]


def test_groups_add_up_what_their_processes_have() -> None:
    for kind in KINDS[1:]:
        found = lines(kind)
        assert 1 < len(found) < len(ROWS)
        for field in ("saved_bytes", "merged_bytes", "memory_bytes"):
            total = sum(getattr(row, field) for row in ROWS)
            assert sum(getattr(line, field) for line in found) == total
        assert sum(line.unsharing or 0 for line in found) == sum(rate(row) or 0 for row in ROWS)
        for line in found:
            assert {getattr(row, kind) for row in line.rows} == {line.key[1]}
            shares = [row.mappings / row.mappings_limit for row in line.rows]
            assert line.mappings_share == max(shares)
            assert (line.pid is None) == (len(line.rows) > 1)


def test_processes_of_no_guest_have_a_line_that_no_guest_can_have() -> None:
    (line,) = (line for line in lines("guest") if not line.key[1])
    assert line.name == "(no guest)"
    forged = [replace(row, guest="(no guest)") if row.guest else row for row in ROWS]
    found = arranged(forged, rate, "guest", "saved")
    assert len(found) == 2 and len({one.key for one in found}) == 2


def test_a_filter_finds_names_units_users_and_pids_in_any_case() -> None:
    assert {line.rows[0].guest for line in lines(wanted="VM-02")} == {"vm-02"}
    assert {line.rows[0].unit for line in lines(wanted="shop.SER")} == {"shop.service"}
    assert {line.rows[0].user for line in lines(wanted="ada")} == {"ada"}
    assert [line.pid for line in lines(wanted="1237")] == [1237]
    assert lines(wanted="no such thing") == []
    assert {line.name for line in lines("unit", wanted="gunicorn")} == {"shop.service"}


def test_what_is_not_counted_yet_is_not_known() -> None:
    (line,) = arranged([replace(ROWS[0], mappings=0)], rate, "process", "mappings")
    assert line.mappings_share is None
    (line,) = arranged([replace(ROWS[0], mappings_limit=0)], rate, "process", "mappings")
    assert line.mappings_share is None


def test_names_are_printable_whatever_they_are() -> None:
    fields = ("name", "user", "guest", "unit", "cgroup", "domain")
    for enemy in (ENEMY, "x" * 5000, "\udcff\x85"):
        row = replace(ROWS[0], **dict.fromkeys(fields, enemy))
        for kind in KINDS:
            (line,) = arranged([row], rate, kind, "name", wanted=enemy[:3])
            for text in (line.name, line.aside, *line.users):
                assert_plain(text)
                assert len(text) <= 70
