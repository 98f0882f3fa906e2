"""How forecasts made by hand are told."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from pagemerge.cli.show import fit as view
from pagemerge.cli.show.words import as_json
from pagemerge.estimate.cost import Cost, Running
from pagemerge.estimate.fit import Fit, Plan
from pagemerge.linux.room import Limit, Room

GB = 10**9
COST = Cost(
    apart_bytes=2.1e9,
    kernel_bytes=0.52e9,
    user_bytes=0.5e9,
    unshared_bytes=2.5e9,
    private_bytes=2.4e9,
    zero_bytes=0.7e9,
    own_bytes=0.47e9,
    other_bytes=9e6,
    record_bytes=33e6,
    mapping_bytes=2e6,
    huge_bytes=1.9e9,
)
RESULT = Fit(
    name="qemu-system-x86",
    like=8,
    cost=COST,
    most_kernel_bytes=0.6e9,
    room=Room(64 * GB),
    reserve_bytes=2 * GB,
    unsharing_bytes_per_second=1.5e6,
    now=Running(9 * GB, 8 * GB, 1 * GB),
    apart=Plan(29, 3 * GB, 10 * GB, 1234.0),
    kernel=Plan(1_130, 2 * GB, 190 * GB, 1182.5),
    user=Plan(1_136, 2 * GB, 200 * GB, 1100.0),
    safe=Plan(24, 50 * GB, 0, None),
    splits_free_zeros=True,
)
LIMITED = replace(
    RESULT,
    name="\x1b[31m[bold]evil\n:smile:",
    room=Room(64 * GB, Limit(b"a/\x1b[2J\xff" + b"long/" * 30, "memory.max", 9 * GB, 5 * GB, GB)),
)


def shown(result: Fit, width: int) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=True, no_color=True, highlight=False, emoji=False
    )
    view.show(console, result)
    return out.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_the_first_line_is_the_answer() -> None:
    first = shown(RESULT, 200).splitlines()[0]
    assert first == (
        "1,130 more like qemu-system-x86 fit with merging, 29 without, and 24 whatever they write."
    )


@pytest.mark.parametrize("result", [RESULT, LIMITED])
@pytest.mark.parametrize("width", [60, 80, 100])
def test_it_fits_the_screen_and_hostile_text_does_nothing(result: Fit, width: int) -> None:
    text = shown(result, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    assert "[bold]" in text or result is RESULT
    for figure in ("2.10 GB", "520 MB", "470 MB", "1,130", "190 GB", "20 min"):
        assert figure in text


def test_what_is_told_depends_on_what_is_known() -> None:
    text = " ".join(shown(RESULT, 80).split())
    assert "available on this host (MemAvailable)" in text
    assert "-2.00 GB kept in reserve" in text
    assert "unshares 1.50 MB a second" in text
    assert "this kernel also does so when it splits a huge page, which is not counted on" in text
    assert "Only one was looked at" not in text
    less = replace(
        RESULT,
        like=1,
        reserve_bytes=0,
        unsharing_bytes_per_second=None,
        splits_free_zeros=None,
        cost=replace(COST, unshared_bytes=COST.apart_bytes),
    )
    text = " ".join(shown(less, 80).split())
    assert "reserve" not in text
    assert "FULL AFTER" not in text
    assert "`pagemerge scan --watch` measures it" in text
    assert "Only one was looked at" in text
    assert "whether this kernel also does so when it splits a huge page is unknown" in text
    assert "written to all of its pages" not in text
    assert "memory.max (9.00 GB) of the cgroup /a/\\x1b[2J\\xff" in " ".join(
        shown(LIMITED, 200).split()
    )


def test_figures() -> None:
    read = json.loads(as_json(view.figures(LIMITED)))
    assert read["cost_bytes"]["kernel_engine"] == 520_000_000
    assert read["plans"]["kernel_engine"] == {
        "more": 1130,
        "left_bytes": 2 * GB,
        "missing_bytes_if_all_unshares": 190 * GB,
        "seconds_until_full": 1182.5,
    }
    assert read["plans"]["safe"]["seconds_until_full"] is None
    assert read["left_bytes"] == read["cgroup"]["left_bytes"] == 5 * GB
    assert json.loads(as_json(view.figures(RESULT)))["cgroup"] is None
