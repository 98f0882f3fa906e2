"""Who is opted in as processes come, change and go: real processes, and notes of what was done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pagemerge.decide.rules import Rule
from pagemerge.enrolment import Enrolment
from pagemerge.errors import AccessDenied
from pagemerge.model import Identity

TAG = f"enrolment-of-{os.getpid()}"


class Noted:
    """What was done to whom."""

    def __init__(self, *rules: Rule, dry_run: bool = False) -> None:
        self.marked: list[int] = []
        self.unmarked: list[int] = []
        self.refuses: set[int] = set()
        self.enrolment = Enrolment(rules, self._mark, self._unmark, dry_run=dry_run)

    def _mark(self, who: Identity) -> None:
        self.marked.append(who.pid)
        if who.pid in self.refuses:
            raise AccessDenied("not this one", pid=who.pid)

    def _unmark(self, who: Identity) -> None:
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
    assert noted.enrolment.look() == [sleeper.pid]
    assert noted.enrolment.look() == []
    assert noted.marked == [sleeper.pid]
    assert noted.unmarked == []


def test_out_wins_and_undoes_what_a_process_did_itself(sleeper: subprocess.Popen[bytes]) -> None:
    noted = Noted(Rule("in", command=f"*{TAG}"), Rule("out", command=f"*{TAG}*"))
    assert noted.enrolment.look() == [sleeper.pid]
    assert noted.marked == []
    assert noted.unmarked == [sleeper.pid]


def test_who_cannot_be_marked_is_not_asked_again(
    sleeper: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    noted = Noted(Rule("in", command=f"*{TAG}"))
    noted.refuses.add(sleeper.pid)
    noted.enrolment.look()
    noted.enrolment.look()
    assert noted.marked == [sleeper.pid]
    assert f"process {sleeper.pid}" in caplog.text
    assert "cannot be opted in: not this one" in caplog.text


def test_a_dry_run_does_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    noted = Noted(Rule("in", command=f"*{TAG}"), dry_run=True)
    assert noted.enrolment.look() == []
    assert noted.marked == []


def test_who_governs_is_left_out() -> None:
    noted = Noted(Rule("in", command="*"))
    noted.enrolment.look()
    assert noted.marked
    assert os.getpid() not in noted.marked
