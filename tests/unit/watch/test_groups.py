"""Rows gathered by name, and counts that never fall."""

from __future__ import annotations

from pagemerge.watch.groups import MOST_NAME, Counts, Label, gathered, label_of
from pagemerge.watch.model import Moment
from tests.unit.watch.moments import moment, row, user


def test_a_row_goes_by_its_guest_then_its_unit_then_its_name() -> None:
    assert label_of(row(1, guest="web", unit="a.service")) == Label("user", "guest", "web")
    assert label_of(row(1, unit="a.service")) == Label("user", "unit", "a.service")
    assert label_of(row(1, engine="kernel")) == Label("kernel", "process", "worker1")
    evil = label_of(row(1, guest='"}\n\x1b\udcff' + "x" * 900))
    assert evil.name.isprintable() and len(evil.name) == MOST_NAME


def test_processes_of_a_unit_are_added_up() -> None:
    rows = [
        row(1, unit="a.service", saved_bytes=5, mappings=50, mappings_limit=100),
        row(2, unit="a.service", saved_bytes=6, mappings=20, mappings_limit=100),
        row(3, unit="b.service", saved_bytes=7, mappings_limit=0),
    ]
    groups = gathered(rows)
    one = groups[Label("user", "unit", "a.service")]
    assert (one.saved_bytes, one.processes, one.mappings_ratio, one.pids) == (11, 2, 0.5, [1, 2])
    assert groups[Label("user", "unit", "b.service")].mappings_ratio == 0.0


def test_only_those_that_save_most_have_a_name() -> None:
    rows = [row(pid, name=f"p{pid}", saved_bytes=pid) for pid in range(1, 1001)]
    rows += [row(2000 + pid, engine="kernel", saved_bytes=0) for pid in range(5)]
    groups = gathered(rows, most=3)
    assert {label.name for label in groups} == {"p1000", "p999", "p998", "other"}
    assert groups[Label("user", "other", "other")].processes == 997
    assert groups[Label("kernel", "other", "other")].processes == 5
    assert sum(group.saved_bytes for group in groups.values()) == 500_500


def counted(*moments: Moment, most: int = 50) -> list[tuple[int, dict[str, int]]]:
    """Separations after each moment: of all, and by name."""
    counts, found = Counts(), []
    for it in moments:
        counts.note(it, gathered(it.rows, most))
        by_name = {label.name: count.separations for label, count in counts.of.items()}
        found.append((counts.all.separations, by_name))
    return found


def test_counts_go_on_when_a_client_leaves_or_its_pid_comes_again() -> None:
    first = moment(user=user(), rows=(row(1, separations=100), row(2, separations=10)))
    left = moment(user=user(), rows=(row(2, separations=15),))
    again = moment(user=user(), rows=(row(1, merges=3, separations=7), row(2, separations=15)))
    assert [total for total, _ in counted(first, left, again)] == [110, 115, 122]


def test_counts_go_on_when_the_hub_is_silent_or_replaced() -> None:
    first = moment(user=user(), rows=(row(1, separations=100),))
    silent = moment()
    later = moment(user=user(), rows=(row(1, separations=104),))
    other = moment(user=user(hub_pid=8), rows=(row(1, merges=9000, separations=200),))
    totals = [total for total, _ in counted(first, silent, later, other)]
    assert totals == [100, 100, 104, 304]


def test_counts_of_the_rest_never_fall() -> None:
    def at(one: int, two: int) -> Moment:
        rows = (row(1, saved_bytes=one, separations=one), row(2, saved_bytes=two, separations=two))
        return moment(user=user(), rows=rows)

    told = counted(at(50, 10), at(60, 20), at(70, 90), at(71, 91), most=1)
    assert [by_name["other"] for _, by_name in told] == [10, 20, 30, 31]
    assert told[1][1] == {"worker1": 60, "other": 20}
    assert told[2][1] == {"worker2": 70, "other": 30}
