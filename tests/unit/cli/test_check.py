"""``pagemerge status --check``: the line that monitoring systems read."""

from __future__ import annotations

import re

import pytest

from pagemerge.cli.show.check import check
from pagemerge.watch.model import Host, Moment
from pagemerge.watch.reserve import REACTION, reserve
from tests.unit.watch.moments import GIB, kernel, moment, user

LINE = re.compile(
    r"PAGEMERGE (OK|WARNING|CRITICAL|UNKNOWN): ([^|\n]+) \| "
    r"saved=\d+B;;;0 available=\d+B;(\d+):;(\d+):;0 burst=\d+B;;;0"
)


def told(now: Moment, fastest: float = 0.0, wanted: int = 0) -> tuple[str, int]:
    """The line and the status."""
    return check(now, reserve(now, fastest, wanted))


@pytest.mark.parametrize(
    ("saved", "fastest", "wanted", "status", "words"),
    [
        (GIB, 0.0, 0, 0, "memory is safe even if every merged page is written"),
        (7 * GIB, 0.0, 2 * GIB, 1, "the reserve of 2.1 GB would lack 1.1 GB"),
        (7 * GIB, 6 * GIB / 4096 / REACTION, 3 * GIB, 2, "and the reserve of 3.2 GB would lack"),
    ],
)
def test_states(saved: int, fastest: float, wanted: int, status: int, words: str) -> None:
    now = moment(host=Host(16 * GIB, 8 * GIB), user=user(saved_bytes=saved))
    line, found = told(now, fastest, wanted)
    assert found == status and words in line
    read = LINE.fullmatch(line)
    assert read and ("OK", "WARNING", "CRITICAL")[status] == read[1]
    assert int(read[3]) == wanted + saved, "the range of no warning begins where the worst fits"


def test_nothing_runs() -> None:
    for now in (moment(), moment(kernel=kernel(run=0))):
        line, status = told(now)
        assert status == 3 and LINE.fullmatch(line)


def test_a_ksmd_that_stands_and_saves_counts() -> None:
    assert told(moment(kernel=kernel(run=0, saved_bytes=4096)))[1] == 0


def test_a_host_that_does_not_tell() -> None:
    line, status = told(moment(host=Host(GIB, None)))
    assert status == 3 and line.startswith("PAGEMERGE UNKNOWN: ")
