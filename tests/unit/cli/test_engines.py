"""``pagemerge status`` for both engines: how moments are told, from moments made by hand."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from pagemerge.cli.show import engines
from pagemerge.cli.show.words import as_json
from pagemerge.watch.model import Moment
from pagemerge.watch.rates import Rates
from tests.unit.watch.moments import kernel, moment, row, user

RATES = Rates(1.0, 0.021, 0.003, 12.4, 0.0)


def shown(now: Moment, width: int = 100, no_hub: str = "no hub runs") -> list[str]:
    """The lines that are printed."""
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        engines.show(console, now, RATES, no_hub, {1: 3.0})
    return capture.get().splitlines()


def test_the_first_line_is_the_answer() -> None:
    both = moment(user=user(saved_bytes=10**9), kernel=kernel(saved_bytes=2 * 10**9))
    assert shown(both)[0] == (
        "Merging saves 3.0 GB now: 2.0 GB by kernel KSM and 1.0 GB by the user engine."
    )
    one = moment(user=user(saved_bytes=10**9), kernel=kernel())
    assert shown(one)[0] == "Merging saves 1.0 GB now, all of it by the user engine."
    assert shown(moment())[0] == "Merging saves nothing now."


def test_each_engine_has_a_line_with_its_cost_now() -> None:
    said = shown(moment(user=user(clients=3, pages_shared=8), kernel=kernel(governor_pid=9)))
    assert said[1] == (
        "User engine: the hub (process 7, for 100 s) keeps 8 stable pages for 3 clients, at 2.1% "
        "of a core; 12 pages unshare per second."
    )
    assert said[2].startswith("Kernel KSM: ksmd runs (driven by process 9), with 0 stable pages")
    without = shown(moment())
    assert without[1:] == ["User engine: no hub runs.", "Kernel KSM: this Linux has none."]


def test_rows_that_save_most_come_first_by_the_name_people_know() -> None:
    rows = (
        row(1, saved_bytes=1, memory_bytes=8192, volatile_bytes=2048, agent_cores=0.004),
        row(2, guest="web", saved_bytes=9_000_000),
        row(3, unit="app.service", saved_bytes=2, separations=None, mappings=0),
    )
    said = shown(moment(rows=rows))
    table = said[said.index("") + 1 :]
    assert [line.split()[:2] for line in table[1:4]] == [
        ["2", "web"],
        ["3", "app.service"],
        ["1", "worker1"],
    ]
    # What stands at 100 columns: pages that unshare, what is volatile, the cost.
    assert table[3].split()[-3:] == ["3", "25%", "0.4%"]
    assert table[2].split()[-3:] == ["-", "-", "-"]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_lines_of_the_table_fit(width: int) -> None:
    rows = tuple(row(10**6 + at, unit="a-very-long-name-of-a-unit.service") for at in range(50))
    said = shown(moment(rows=rows), width)
    table = said[said.index("") + 1 :]
    assert max(map(len, table[:41])) <= width
    assert table[41] == "and 10 processes more"


def test_reasons_are_told_once_each() -> None:
    rows = [row(at, why="ksmd is stopped") for at in range(1, 6)]
    assert engines.reasons([*rows, row(9, why="too\x1bnew")]) == [
        "1 worker1, 2 worker2, 3 worker3 and 2 more: ksmd is stopped",
        "9 worker9: too\\x1bnew",
    ]


def test_json_has_it_all() -> None:
    now = moment(user=user(), rows=(row(1), row(2)))
    told = json.loads(as_json(engines.figures(now, RATES, "", {1: 3.0})))
    assert told["user"]["hub_pid"] == 7 and told["kernel"] is None and told["no_hub"] is None
    assert [it["separations_per_second"] for it in told["rows"]] == [3.0, None]
    assert told["now"]["user_cores"] == 0.021
