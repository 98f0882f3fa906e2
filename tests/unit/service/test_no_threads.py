"""Where no thread can be started, because a limit is reached: an error with its cause, no fault."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pagemerge.errors import PagemergeError
from pagemerge.linux.forked import Forked
from pagemerge.service import watch
from pagemerge.service.api import child
from pagemerge.service.api.moments import Moments, in_thread
from pagemerge.service.orders import Line, obey
from pagemerge.watch.endpoint import Endpoint
from pagemerge.watch.history import History
from tests.support.api import recorded
from tests.unit.service.test_orders import Noted

STRANGER = 31337
MUCH = 1 << 46
"""Bytes of a stack for which no process has room, so that the kernel refuses each thread."""


@contextmanager
def no_threads() -> Iterator[None]:
    """No thread can be started in this block."""
    before = threading.stack_size(MUCH)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=print).start()
        yield
    finally:
        threading.stack_size(before)


def test_the_history_misses_a_moment_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.02)
    caplog.set_level("INFO")

    async def run(history: History) -> None:
        recording = asyncio.create_task(watch._record(history, recorded))
        with no_threads():
            await asyncio.sleep(0.2)
            assert not recording.done()
        while not history.series():
            await asyncio.sleep(0.01)
        while len(caplog.messages) < 2:
            await asyncio.sleep(0.01)
        recording.cancel()

    with History(tmp_path / "history") as history:
        asyncio.run(asyncio.wait_for(run(history), 20))
    missed, goes_on = caplog.messages
    assert missed.startswith("the history misses a moment: no thread can be started: a limit of")
    assert goes_on == "the history goes on"


def test_callers_are_told_why() -> None:
    async def run() -> None:
        moments = Moments(recorded)
        with no_threads():
            for work in (in_thread(recorded), moments.now()):
                with pytest.raises(PagemergeError, match="no thread can be started: a limit"):
                    await work
        assert (await moments.now()).moment

    asyncio.run(run())


def test_metrics_are_an_error_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = Endpoint(lambda: b"a 1\n", "text/plain")
    with no_threads():
        answer = asyncio.run(endpoint._answer(b"GET /metrics HTTP/1.1\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 500") and b"no thread can be started" in answer
    assert "Traceback" not in caplog.text


def test_a_governor_says_so() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        with no_threads(), pytest.raises(PagemergeError, match="no thread can be started"):
            obey(ours, Noted())
        obey(ours, Noted())
        assert Line(theirs).order("pause") is True


def test_a_process_that_cannot_be_started(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scanned() -> None:
        async with contextlib.aclosing(child.run("pagemerge.cli.scanner", {})) as lines:
            await anext(lines)

    def changed() -> None:
        child.run_to_its_end("pagemerge.service.api.marking", {})

    def at_the_limit() -> int:
        if os.geteuid() == 0:  # for root there is no limit
            os.setresuid(STRANGER, STRANGER, STRANGER)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        try:
            asyncio.run(scanned())
        except PagemergeError as error:
            os.write(1, f"{error}\n".encode())
        try:
            changed()
        except PagemergeError as error:
            os.write(1, f"{error}\n".encode())
        return 0

    assert Forked(at_the_limit, "limited").wait(20) == 0
    told = capfd.readouterr().out.splitlines()
    assert [it.partition(":")[0] for it in told] == ["no process can be started for this"] * 2
    monkeypatch.setattr("sys.executable", "/nowhere")
    with pytest.raises(PagemergeError, match="/nowhere cannot be run: No such file"):
        changed()
