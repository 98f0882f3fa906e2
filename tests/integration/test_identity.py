"""Who runs here: real processes, their exec, their change of user, and their end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pagemerge.errors import Unsupported
from pagemerge.ksmd.decide.rules import Rule, rule_on
from pagemerge.ksmd.ruling import Changes, Opting
from pagemerge.linux import identity
from pagemerge.linux.identity import Identities, Identity
from tests.support.cgroup import limited
from tests.support.commands import NOBODY

READY_AND_WAIT = "print(flush=True); import sys; sys.stdin.read()"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python with a script and arguments, under the name of ``argv0``."""
    with ExitStack() as stack:

        def start(script: str, *words: str, argv0: str = "python3") -> subprocess.Popen[str]:
            child = stack.enter_context(
                subprocess.Popen(
                    [argv0, "-c", script, *words],
                    executable=sys.executable,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(child.kill)
            assert child.stdout
            assert child.stdout.readline() == "\n"
            return child

        yield start


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody counts as young, and it is nobody's turn: what is not noticed is not read."""
    monkeypatch.setattr(identity, "YOUNG", -1)
    monkeypatch.setattr(identity, "TURNS", 1 << 40)


def of(identities: Identities, pid: int) -> Identity:
    (found,) = (who for who in identities.present() if who.pid == pid)
    return found


def test_ourselves_and_no_kernel_thread() -> None:
    found = {who.pid: who for who in Identities().present()}
    own = found[os.getpid()]
    assert own.uid == os.geteuid()
    assert own.command == " ".join(sys.orig_argv)
    assert own.cgroup.startswith("/")
    assert own.guest == ""
    assert not any(who.name == "kthreadd" for who in found.values())


def test_a_guest_by_its_arguments(start: Start) -> None:
    words = ("-name", "guest=web,debug-threads=on", "-S", "-machine", "pc-q35-7.2")
    child = start(READY_AND_WAIT, *words, argv0="/usr/bin/qemu-system-x86_64")
    who = of(Identities(), child.pid)
    assert who.guest == "web"
    (decision,) = rule_on([who], [Rule("in", guest="w*")]).decisions
    assert decision.reason == "in: rule 1, guest w*"


@pytest.mark.requires("qemu")
def test_a_real_qemu() -> None:
    name = "guest=web,process=renamed,debug-threads=on"
    words = ["qemu-system-x86_64", "-name", name, "-M", "none", "-S", "-display", "none"]
    with subprocess.Popen([*words, "-nodefaults"], stdin=subprocess.DEVNULL) as qemu:
        try:
            identities, deadline = Identities(), time.monotonic() + 30
            while (who := of(identities, qemu.pid)).name != "renamed":
                assert time.monotonic() < deadline, f"QEMU calls itself {who.name}"
                os.sched_yield()
        finally:
            qemu.kill()
    assert who.guest == "web"
    assert who.command.startswith(f"qemu-system-x86_64 -name {name} -M none")


@pytest.mark.usefixtures("settled")
def test_exec_is_noticed_even_into_the_same_program(start: Start) -> None:
    again = (
        f"import os, sys; print(flush=True); input(); os.execv({sys.executable!r}, sys.argv[1:])"
    )
    child = start(again, "python3", "-c", READY_AND_WAIT, "second")
    assert child.stdin
    assert child.stdout
    identities = Identities()
    before = of(identities, child.pid)
    assert of(identities, child.pid) is before
    child.stdin.write("go on\n")
    child.stdin.flush()
    assert child.stdout.readline() == "\n"
    after = of(identities, child.pid)
    assert (after.start_time, after.name) == (before.start_time, before.name)
    assert after.command == f"python3 -c {READY_AND_WAIT} second"


@pytest.mark.requires("root")
@pytest.mark.usefixtures("settled")
def test_another_user_is_noticed(start: Start) -> None:
    become = "import os; print(flush=True); input(); os.setresuid(*[65534] * 3); "
    child = start(become + READY_AND_WAIT)
    assert child.stdin
    assert child.stdout
    identities = Identities()
    assert of(identities, child.pid).uid == 0
    child.stdin.write("go on\n")
    child.stdin.flush()
    assert child.stdout.readline() == "\n"
    assert of(identities, child.pid).uid == NOBODY


def test_who_comes_and_goes(start: Start) -> None:
    identities = Identities()
    before = {who.pid for who in identities.present()}
    child = start(READY_AND_WAIT)
    assert child.pid not in before
    assert child.pid in {who.pid for who in identities.present()}
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.pid not in {who.pid for who in identities.present()}, "a zombie has no memory"
    child.wait()
    assert child.pid not in {who.pid for who in identities.present()}


def test_a_move_to_a_cgroup_is_noticed_in_the_young(start: Start) -> None:
    child = start(READY_AND_WAIT)
    with ExitStack() as stack:
        try:
            cgroup = stack.enter_context(limited(64 << 20))
        except Unsupported as why:
            pytest.skip(str(why))
        stack.callback(child.wait)
        stack.callback(child.kill)
        opting = Opting([Rule("in", cgroup=f"/{cgroup.path.name}")])
        assert opting.changes() == Changes()
        (cgroup.path / "cgroup.procs").write_text(str(child.pid))
        (decision,) = opting.changes().opt_in
        assert decision.who.pid == child.pid
        assert decision.who.cgroup == f"/{cgroup.path.name}"


def test_rules_meet_processes_as_they_appear(start: Start) -> None:
    word = f"one-of-these-{os.getpid()}"
    opting = Opting([Rule("in", command=f"*{word}"), Rule("out", command=f"*not {word}")])
    assert opting.changes().news == ()
    one = start(READY_AND_WAIT, word)
    other = start(READY_AND_WAIT, "not", word)
    changes = opting.changes()
    assert [decision.who.pid for decision in changes.opt_in] == [one.pid]
    assert {it.who.pid: it.opt for it in changes.news} == {one.pid: "in", other.pid: "out"}
    assert opting.holder == os.geteuid()
    for child in (one, other):
        child.kill()
        child.wait()
    assert opting.changes() == Changes()
    assert opting.holder is None


def test_processes_that_vanish_in_the_middle_are_no_error() -> None:
    """A shell that starts short-lived children all the time, while we look."""
    script = "while :; do for i in 1 2 3 4 5; do (exit) & done; wait; done"
    with subprocess.Popen(["/bin/sh", "-c", script]) as shell:
        try:
            identities = Identities()
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                found = identities.present()
                assert [who.pid for who in found] == sorted({who.pid for who in found})
                assert any(who.pid == shell.pid for who in found)
        finally:
            shell.kill()
