"""Processes that talk over pipes: answers, failures, deadlines, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pagemerge.demo.dialog import Child, ask_all
from pagemerge.errors import PagemergeError
from pagemerge.linux.aside import readers
from tests.conftest import Spawn


def test_question_and_answer(victim: Spawn) -> None:
    child = victim("talker")
    assert child.ready["greeting"] == "hello"
    long = "x" * 300_000  # several times what a pipe holds
    assert child.ask("echo", text=long) == {"text": long}


def test_all_are_asked_at_once(victim: Spawn) -> None:
    children = [victim("talker"), victim("talker")]
    assert ask_all(children, "echo", text="a") == [{"text": "a"}, {"text": "a"}]


def test_a_failure_is_an_error_and_the_child_goes_on(victim: Spawn) -> None:
    child = victim("talker")
    with pytest.raises(PagemergeError, match="ValueError: on purpose") as caught:
        child.ask("fail")
    assert caught.value.pid == child.pid
    assert child.ask("echo", text="still here")


def test_an_early_end_is_an_error(victim: Spawn) -> None:
    child = victim("talker")
    with pytest.raises(PagemergeError, match="ended early, with exit status 7"):
        child.ask("leave", status=7)
    with pytest.raises(PagemergeError, match="ended early"):
        child.ask("echo", text="anyone?")


def test_silence_has_a_deadline(victim: Spawn) -> None:
    child = victim("talker")
    with pytest.raises(PagemergeError, match=r"did not answer within 0\.1 s"):
        child.ask("hang", patience=0.1)
    assert child.close(patience=0.1) == -signal.SIGKILL


def test_the_end_of_the_input_ends_it(victim: Spawn) -> None:
    assert victim("talker").close() == 0


def test_a_child_that_cannot_start_is_reaped() -> None:
    readers.close()  # they are children of ours, too
    with pytest.raises(PagemergeError, match="ended early, with exit status 3"):
        Child([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_parent_that_is_killed_takes_its_child_along() -> None:
    """PR_SET_PDEATHSIG: the pipe that both share closes only when the child has gone too."""
    child = (
        "import signal, sys; from pagemerge.demo.dialog import die_with_parent;"
        "die_with_parent(int(sys.argv[1])); print('ready', flush=True); signal.pause()"
    )
    parent = (
        "import os, subprocess, sys, signal;"
        f"subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())]); signal.pause()"
    )
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=write)
    os.close(write)
    with os.fdopen(read, "rb") as output:
        assert output.readline() == b"ready\n"
        process.kill()
        process.wait()
        assert output.read() == b""
