"""Who is to be opted in or out now, as processes come, change and go."""

from __future__ import annotations

import os
from dataclasses import replace

from pagemerge.ksmd.decide.rules import Rule
from pagemerge.ksmd.ruling import Changes, Opting
from pagemerge.linux.identity import Identity
from tests.unit.ksmd.test_rules import GUEST, WEB

RULES = Rule("in", unit="web-*"), Rule("in", guest="*"), Rule("out", command="*secret*")


def test_processes_come_change_and_go() -> None:
    running: list[Identity] = []
    opting = Opting(RULES, present=lambda: running)
    assert opting.changes() == Changes()

    running = [WEB, GUEST]
    first = opting.changes()
    assert [decision.who for decision in first.opt_in] == [WEB]
    assert [decision.opt for decision in first.news] == ["in", "refused"]
    assert opting.holder == WEB.uid
    assert opting.changes() == Changes(), "once is enough"

    # By exec it becomes what is opted out.
    running = [replace(WEB, command="secret keeper"), GUEST]
    second = opting.changes()
    assert second.opt_out == (running[0],)
    assert [decision.who for decision in second.opt_in] == [GUEST], "nobody holds it any more"
    assert [decision.opt for decision in second.news] == ["out", "in"]
    assert opting.holder == GUEST.uid

    running = [GUEST]
    assert opting.changes() == Changes(), "who has gone needs no opting out"
    running = [replace(GUEST, start_time=7000)]
    assert [decision.who for decision in opting.changes().opt_in] == running, "the pid again"


def test_of_several_users_all_are_in_by_word() -> None:
    opting = Opting(RULES, across_users=True, present=lambda: [WEB, GUEST])
    assert len(opting.changes().opt_in) == 2
    assert opting.holder is None


def test_ourselves_are_left_alone() -> None:
    own = replace(WEB, pid=os.getpid())
    assert Opting([Rule("in", command="*")], present=lambda: [own]).changes() == Changes()
