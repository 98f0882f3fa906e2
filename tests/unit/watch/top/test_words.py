"""What the view says: the answer, the engines' state, and why a line merges nothing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pagemerge.watch.model import Decision, Moment
from pagemerge.watch.top import words
from pagemerge.watch.top.lines import arranged
from pagemerge.watch.top.recent import Recent
from tests.support.hostile import assert_plain
from tests.support.moments import BEGIN, recording

MOMENTS = recording()
LAST = MOMENTS[-1]
assert LAST.user and LAST.kernel
USER, KERNEL = LAST.user, LAST.kernel
ENEMY = "\x1b]0;x\x07[bold]\u2028"


def after(moment: Moment) -> Recent:
    return Recent([moment])


def test_the_answer_comes_in_one_sentence() -> None:
    assert words.answer(LAST) == (
        "Merging saves 6.37 GB in 21 processes (hub 1.65 GB, ksmd 4.72 GB)."
    )
    assert "(ksmd 4.72 GB)" in words.answer(replace(LAST, user=None))
    nothing = replace(LAST, user=None, kernel=None, rows=())
    assert words.answer(nothing) == "Merging saves nothing at the moment."


def test_memory_is_told_as_far_as_it_is_known() -> None:
    assert "of 64.0 GB of the host's memory are in use" in words.memory(LAST)
    unknown = replace(LAST, host=replace(LAST.host, available_bytes=None))
    assert words.memory(unknown) == "The host has 64.0 GB of memory."


@pytest.mark.parametrize(
    ("changes", "word", "told"),
    [
        ({"run": 1}, "running", "4.7 GB saved"),
        ({"run": 0}, "paused", "the governor (pid 640) lets ksmd rest"),
        ({"run": 0, "governor_pid": None}, "paused", "`pagemerge daemon --engine kernel`"),
        ({"run": 0, "governor_pid": None, "saved_bytes": 0}, "off", "nothing merges"),
        ({"run": 1, "governor_pid": None}, "running", "no governor: 512 pages every 2 ms"),
        ({"run": 1, "pages_to_scan": 0, "governor_pid": None}, "paused", "looks at no page"),
        ({"run": 2}, "off", "separated all pages"),
        ({"run": None, "governor_pid": None}, "off", "cannot be read"),
        ({"run": 1, "saved_bytes": 0}, "running", "900,000 pages that were looked at are unique"),
        ({"run": 1, "saved_bytes": 0, "pages_unshared": 0}, "running", "no pages were looked at"),
    ],
)
def test_the_state_of_ksmd(changes: dict[str, int | None], word: str, told: str) -> None:
    state = words.kernel_engine(after(replace(LAST, kernel=replace(KERNEL, **changes))))
    assert state.word == word
    assert told in state.text


def test_ksmd_without_a_process_or_a_kernel_that_has_it() -> None:
    idle = replace(LAST, rows=(), kernel=replace(KERNEL, run=1, saved_bytes=0))
    assert "no process has mergeable memory" in words.kernel_engine(after(idle)).text
    assert words.kernel_engine(after(replace(LAST, kernel=None))).word == "off"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "1.6 GB saved for 12 clients; takes 359 MB"),
        ({"clients": 0}, "`pagemerge run -- COMMAND`"),
        ({"saved_bytes": 0}, "none of the 80,423 stable pages has a second user"),
        ({"saved_bytes": 0, "pages_shared": 0}, "all 120,000 pages that were looked at are unique"),
        ({"saved_bytes": 0, "pages_shared": 0, "pages_unshared": 0}, "no pages were looked at"),
    ],
)
def test_the_state_of_the_hub(changes: dict[str, int], told: str) -> None:
    state = words.user_engine(after(replace(LAST, user=replace(USER, **changes))))
    assert state.word == "running"
    assert told in state.text


def test_the_hub_may_not_run() -> None:
    assert words.user_engine(after(replace(LAST, user=None))).word == "off"


def test_a_line_says_why_it_merges_nothing() -> None:
    recent = after(LAST)
    found = {line.pid: line for line in arranged(LAST.rows, recent.unsharing, "process", "saved")}
    told = " ".join(words.details(found[1607], recent))
    assert "Nothing of it merges: its pages change all the time." in told
    assert "no page of it equals another one so far" in " ".join(words.details(found[1348], recent))
    assert words.reasons(found[1200], recent) == []
    stopped = after(replace(LAST, kernel=replace(KERNEL, run=0)))
    assert words.reasons(found[1348], stopped) == ["ksmd is stopped."]


def test_a_group_says_how_many_of_it_merge_nothing() -> None:
    recent = after(LAST)
    found = {line.name: line for line in arranged(LAST.rows, recent.unsharing, "unit", "saved")}
    told = words.reasons(found["front.service"], recent)
    assert told == ["1 of 4 processes merge nothing: its pages change all the time."]


def test_reasons_are_told_once_for_all_lines_that_share_them() -> None:
    rows = [replace(row, merged_bytes=0, why="there is a reason") for row in LAST.rows]
    lines = arranged(rows, after(LAST).unsharing, "process", "saved")
    ((names, reason),) = words.silent(lines, after(LAST))
    assert reason == "there is a reason."
    assert names.endswith(" and 21 more")


def test_all_that_is_said_is_printable() -> None:
    fields = ("name", "user", "guest", "unit", "domain", "why")
    row = replace(LAST.rows[1], **dict.fromkeys(fields, ENEMY), merged_bytes=0)
    decision = Decision(BEGIN, ENEMY, {ENEMY: ENEMY})
    recent = after(replace(LAST, rows=(row,), decisions=(decision,)))
    for kind in ("process", "unit"):
        (line,) = arranged((row, row), recent.unsharing, kind, "saved")[:1]
        for text in (*words.details(line, recent), *words.silent([line], recent)[0]):
            assert_plain(text)
    assert_plain(words.decided(decision))


def test_figures_fit_narrow_columns() -> None:
    assert [words.rate(it) for it in (None, 0, 0.04, 3.26, 9.97, 12_345.6)] == (
        ["-", "0", "0.0", "3.3", "10", "12,346"]
    )
    assert [words.percent(it) for it in (None, 0, 0.004, 0.126, 1.0)] == (
        ["-", "0%", "<1%", "13%", "100%"]
    )
    assert words.short(0) == "0"
