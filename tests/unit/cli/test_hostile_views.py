"""Every view, with names that an enemy chose: printable lines, and one of them a process."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from pagemerge import cli
from pagemerge.cli import doctor, status
from pagemerge.cli.logs import INSIDE, Lines
from pagemerge.cli.show import (
    contents,
    findings,
    selection,
    sharing,
    survey,
    tables,
    targets,
    words,
)
from pagemerge.errors import PagemergeError
from pagemerge.estimate.what import Content, Contents, Kind
from pagemerge.estimate.who import Group, Pair, Sharing
from pagemerge.find.process import Process
from pagemerge.find.stable import Stable
from pagemerge.find.survey import Row, Survey
from pagemerge.find.tally import Totals
from pagemerge.ksmd.attach import Outcome
from pagemerge.ksmd.decide.rules import Rule, rule_on
from pagemerge.ksmd.model import Selection
from pagemerge.ksmd.targets import Target
from pagemerge.linux.host import Driver
from pagemerge.linux.text import plain
from tests.support import hostile
from tests.support.hostile import assert_plain, text_of
from tests.unit.cli.test_doctor import KSM, USER
from tests.unit.cli.test_status import CLIENT, STATUS
from tests.unit.ksmd.test_rules import WEB

WIDTHS = (60, 80, 200)
PID = 4_194_303

names = st.lists(hostile.names.map(text_of), min_size=1, max_size=4)
foreign = hostile.text(b"").map(text_of)


def console(width: int) -> tuple[Console, io.StringIO]:
    """A console as the verbs have it, as wide as that, and what it has shown."""
    out = io.StringIO()
    made = tables.console()
    made.width, made.file = width, out
    return made, out


def processes(chosen: list[str]) -> list[Process]:
    return [Process(PID - at, name, 4_294_967_294) for at, name in enumerate(chosen)]


def about_processes(shown: str) -> list[str]:
    """The lines that begin with the pid of a process of ours."""
    assert_plain(shown)
    return [line for line in shown.split("\n") if line.startswith("41943")]


def fit(lines: list[str], width: int) -> bool:
    """Are none of these wider than that?"""
    return all(cell_len(line) <= width for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
@given(names, foreign)
def test_scan(width: int, chosen: list[str], error: str) -> None:
    who = processes(chosen)
    sizes: dict[str, Any] = {
        "pages": 250_000_000,
        "zero_pages": 9,
        "saveable_bytes": 999_000_000_000,
    }
    rows = [Row(one.name, one.pid, one.uid, **sizes) for one in who]
    rows[-1] = replace(rows[-1], error=error)
    result = Survey(rows, Totals(pages=7), Stable(), {"device": 4096}, 9, 1.0, 1.0)
    made, out = console(width)
    survey.show_answer(result, made)
    survey.show_rows(rows, made)
    told = about_processes(out.getvalue())
    assert [line.split()[0] for line in told] == [str(row.pid) for row in rows], "a row each"
    assert fit(told, width)
    below = out.getvalue().rpartition(f"process {rows[-1].pid} (")[2]
    assert f"{plain(rows[-1].name)}): {plain(error)}" in below.split("\n")[0]
    figures = json.loads(words.as_json(survey.figures(result, rows)))
    assert [row["pid"] for row in figures["processes"]] == [one.pid for one in who]


@pytest.mark.parametrize("width", WIDTHS)
@given(names, foreign, st.binary(max_size=48))
def test_what_and_who(width: int, chosen: list[str], file: str, sample: bytes) -> None:
    held = tuple((name, 7) for name in chosen)
    places = (("anonymous", 7),)
    one = Content("text", 7, 6, chosen[0], file, 3, "", sample, held, places)
    kind = Kind(
        "file", 1, 7, 6, Counter(dict(held)), Counter(dict(places)), Counter({(file, ""): 6})
    )
    found = Contents((kind,), (one, one))
    groups = tuple(Group(name, 1, 9, 1, 1, 6, 1, 5.5) for name in chosen)
    shared = Sharing("guest", groups, (Pair(chosen[0], chosen[-1], 6),), tuple(chosen))
    made, out = console(width)
    contents.show(made, found)
    sharing.show(made, shared)
    assert_plain(out.getvalue())
    rows = [line for line in out.getvalue().split("\n") if line.startswith(" ")]
    assert fit(rows, width), "meanings are folded beside their figures"
    json.loads(words.as_json({"a": contents.figures(found), "b": sharing.figures(shared)}))


@pytest.mark.parametrize("width", WIDTHS)
@given(names, foreign)
def test_attach_and_detach(width: int, chosen: list[str], error: str) -> None:
    who = processes(chosen)
    done = Outcome(PID, chosen[0], "madvise", False, 0.1, 0.1, 9, 3, 12_345_678)
    rows = [Target(one, outcome=done) for one in who]
    rows[-1] = Target(who[-1], error=error)
    made, out = console(width)
    targets.show(rows, made)
    told = about_processes(out.getvalue())
    assert len(told) == 2 * len(rows), "a row each, and below what there is to say of each"
    assert fit(told[: len(rows)], width)
    json.loads(words.as_json(targets.figures(rows)))


def chosen_of(one: Process, error: str) -> Selection:
    """What of a process would be marked."""
    empty = np.empty(0, np.uint64)
    return Selection(
        pid=one.pid,
        name=one.name,
        start=empty,
        end=empty,
        looked=9,
        marked=3,
        duplicates=3,
        gain=1.0,
        mappings=1,
        left_out=1,
        error=error,
    )


@pytest.mark.parametrize("width", WIDTHS)
@given(names, foreign)
def test_select(width: int, chosen: list[str], error: str) -> None:
    who = processes(chosen)
    found = [chosen_of(one, "") for one in who]
    made, out = console(width)
    targets.show_chosen([*found, chosen_of(who[0], error)], made, done=False)
    told = about_processes(out.getvalue())
    assert len(told) == 2 * len(who) + 1
    json.loads(words.as_json(selection.figures(found)))


@pytest.mark.parametrize("width", WIDTHS)
@given(names, foreign)
def test_status(width: int, chosen: list[str], other: str) -> None:
    skipped = {other: 3}
    clients = [
        replace(CLIENT, pid=one.pid, name=one.name, domain=other, note=other, skipped=skipped)
        for one in processes(chosen)
    ]
    given_status = replace(STATUS, clients=tuple(clients))
    made, out = console(width)
    status.show(given_status, made)
    told = about_processes(out.getvalue())
    assert len(told) == 3 * len(clients), "a row, a note, and what is left alone"
    assert fit(told[: len(clients)], width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("terminal", [False, True])
@given(foreign)
def test_doctor(width: int, terminal: bool, name: str) -> None:
    who = replace(USER, drivers=(Driver(name, PID),), huge_pages=name, linux=name)
    engines = [findings.user_engine(who, "intern", name), findings.kernel_engine(KSM)]
    out = io.StringIO()
    made = Console(
        file=out, width=width, force_terminal=terminal, color_system=None, highlight=False
    )
    doctor.show(engines, findings.facts(who, KSM), made)
    assert_plain(out.getvalue())
    json.loads(words.as_json(doctor.figures(who, KSM, engines, [])))


def logged(level: int, text: str, *arguments: object, error: Exception | None = None) -> list[str]:
    """The lines that the log gets of one record."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(Lines())
    record = logging.LogRecord("pagemerge", level, "", 0, text, arguments, None)
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    handler.handle(record)
    assert_plain(out.getvalue())
    assert out.getvalue().endswith("\n")
    return out.getvalue().split("\n")[:-1]


@given(foreign, foreign)
def test_a_record_of_the_log_is_one_line(name: str, pattern: str) -> None:
    """As the governor tells what the rules say of a process."""
    who = replace(WEB, name=name, user=name, command=pattern)
    (decision,) = rule_on([who], [Rule("in", user="33", cgroup="*")]).decisions
    said = logged(logging.INFO, "process %d (%s) is %s", who.pid, who.name, decision.reason)
    assert len(said) == 1
    assert len(logged(logging.WARNING, "%s: %s", name, PagemergeError(pattern))) == 1


@given(foreign)
def test_a_traceback_forges_no_record(text: str) -> None:
    first, *more = logged(logging.ERROR, "it failed", error=ValueError(text))
    assert first.endswith("it failed")
    assert more
    assert all(line.startswith(INSIDE) for line in more)


@given(foreign)
def test_an_error_is_one_line(text: str) -> None:
    class Failing:
        """A verb that fails."""

        arguments = staticmethod(lambda parser: None)

        @staticmethod
        def run(args: object) -> int:
            raise PagemergeError(text)

    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        patch.setattr(sys, "stderr", out)
        patch.setattr(cli, "load", lambda name: Failing)
        assert cli.main(["status"]) == 1
    assert_plain(out.getvalue())
    assert out.getvalue().count("\n") == 1


@given(foreign)
def test_wrong_usage_is_told_plainly(text: str) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", out)
        for given_words in ([text], ["scan", "--sort", text], ["status", "x", text]):
            with pytest.raises(SystemExit), redirect_stdout(io.StringIO()):
                cli.main([word.replace("-h", "x") for word in given_words])
    assert_plain(out.getvalue())


@given(foreign)
def test_json_is_valid_and_loses_no_character(text: str) -> None:
    written = words.as_json({text: [text, 1, None]})
    assert written.isascii()
    (back,) = json.loads(written)
    back.encode()  # no lone surrogates, which others' parsers refuse
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert back == text
