"""Who is opted in as processes come, change and go: real processes, and notes of what was done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pagemerge.errors import AccessDenied
from pagemerge.ksmd.decide.rules import Rule
from pagemerge.ksmd.enrolment import Enrolment
from pagemerge.ksmd.model import Selection
from pagemerge.ksmd.ruling import Opting
from pagemerge.linux.identity import Identity
from tests.conftest import Spawn

TAG = f"enrolment-of-{os.getpid()}"


class Noted:
    """What was done to whom."""

    def __init__(self, *rules: Rule, dry_run: bool = False) -> None:
        self.marked: list[int] = []
        self.unmarked: list[int] = []
        self.selections: list[Selection] = []
        self.refuses: set[int] = set()
        self.enrolment = Enrolment(Opting(rules), marks=self, dry_run=dry_run)

    def allow(self, across_users: bool) -> None:
        self.across_users = across_users

    def all(self, who: Identity) -> None:
        self.marked.append(who.pid)
        if who.pid in self.refuses:
            raise AccessDenied("not this one", pid=who.pid)

    def ranges(self, who: Identity, selection: Selection) -> None:
        self.selections.append(selection)

    def undo(self, who: Identity) -> None:
        self.unmarked.append(who.pid)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line ends with our tag."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, TAG], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_who_fits_is_opted_in_once(sleeper: subprocess.Popen[bytes]) -> None:
    noted = Noted(Rule("in", command=f"*{TAG}"))
    assert noted.enrolment.refresh() == [sleeper.pid]
    assert noted.enrolment.refresh() == []
    assert noted.marked == [sleeper.pid]
    assert noted.unmarked == []


def test_out_wins_and_undoes_what_a_process_did_itself(sleeper: subprocess.Popen[bytes]) -> None:
    noted = Noted(Rule("in", command=f"*{TAG}"), Rule("out", command=f"*{TAG}*"))
    assert noted.enrolment.refresh() == [sleeper.pid]
    assert noted.marked == []
    assert noted.unmarked == [sleeper.pid]


def test_who_cannot_be_marked_is_not_asked_again(
    sleeper: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    noted = Noted(Rule("in", command=f"*{TAG}"))
    noted.refuses.add(sleeper.pid)
    noted.enrolment.refresh()
    noted.enrolment.refresh()
    assert noted.marked == [sleeper.pid]
    assert f"process {sleeper.pid}" in caplog.text
    assert "is left as it is: not this one" in caplog.text


def test_a_dry_run_does_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    noted = Noted(Rule("in", command=f"*{TAG}"), dry_run=True)
    assert noted.enrolment.refresh() == []
    assert noted.marked == []


def test_who_governs_is_left_out() -> None:
    noted = Noted(Rule("in", command="*"))
    noted.enrolment.refresh()
    assert noted.marked
    assert os.getpid() not in noted.marked


def test_of_who_is_selected_only_duplicates_are_marked_as_it_grows(victim: Spawn) -> None:
    """Real memory of two processes, a third of which they have in common."""
    noted = Noted(Rule("in", command=f"*sharer.py plain {TAG}", select=True))
    both = [victim("sharer", "plain", TAG) for _ in "ab"]
    noted.enrolment.refresh()
    assert noted.selections == [], "nothing is there to be found yet"
    for one in both:
        one.ask("fill", seed=1, shared=4096, own=8192)
    noted.enrolment.refresh()
    assert noted.selections == [], "it has grown just now"
    assert sorted(noted.enrolment.refresh()) == sorted(one.pid for one in both)
    for selection in noted.selections:
        assert 4096 <= selection.marked < 8192
        assert selection.duplicates >= 4096
    noted.enrolment.refresh()
    assert len(noted.selections) == 2, "once is enough while it does not grow"
    assert noted.marked == []


def test_other_rules_opt_out_what_they_do_not_fit(sleeper: subprocess.Popen[bytes]) -> None:
    """And leave alone what stays in: its merged pages are not to be touched."""
    noted = Noted(Rule("in", command=f"*{TAG}"))
    noted.enrolment.refresh()
    rules = [Rule("in", command=f"*{TAG} and more"), Rule("in", command=f"*{TAG}")]
    noted.enrolment.follow(rules, True)
    assert noted.across_users
    assert noted.enrolment.refresh() == []
    assert (noted.marked, noted.unmarked) == ([sleeper.pid], [])
    noted.enrolment.follow([], True)
    assert noted.enrolment.refresh() == [sleeper.pid]
    assert noted.unmarked == [sleeper.pid]
    assert noted.enrolment.refresh() == []
