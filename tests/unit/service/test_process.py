"""An engine is started again at once after steady work, and later and later if it cannot work."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest

from pagemerge.errors import UsageError
from pagemerge.service.process import LONGEST, SOON, STARTING, STEADY, EngineProcess

READY = "READY=1\nSTATUS=works"


def waits() -> int:
    """Wait for a signal."""
    signal.pause()
    return 0


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    """Waits for a signal."""
    made = EngineProcess("the hub", "test-hub", waits)
    yield made
    if made.process:
        made.process.kill()


def kill(engine: EngineProcess, now: float, number: int = signal.SIGKILL) -> str:
    """Kill it, and return how it has ended, for the log."""
    assert engine.process
    pid = engine.pid
    engine.process.send(number)
    engine.process.wait(20)
    how = engine.ended(now)
    assert how
    return how.replace(str(pid), "PID")


def test_pauses_grow_while_it_does_not_work(engine: EngineProcess) -> None:
    now, pauses = 100.0, []
    for _ in range(10):
        engine.start(now)
        assert engine.ended(now) is None
        assert kill(engine, now) == "the hub (process PID) was killed by SIGKILL"
        assert engine.due is not None
        pauses.append(engine.due - now)
        now = engine.due
    assert pauses[:4] == [0.0, SOON, 2 * SOON, 4 * SOON]
    assert pauses[-1] == LONGEST
    engine.start(now)
    engine.hear(READY, now)
    assert engine.status == "works"
    kill(engine, now + STEADY)
    assert engine.due == now + STEADY, "it has worked: this is the first death"


def test_a_fork_that_fails_is_tried_again(
    engine: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "no more processes")

    monkeypatch.setattr(os, "fork", fork)
    engine.start(5.0)
    assert (engine.process, engine.due) == (None, 5.0)
    engine.start(5.0)
    assert engine.due == 5.0 + SOON


def test_it_is_to_be_heard_in_time(engine: EngineProcess) -> None:
    engine.watchdog_seconds = 3.0
    engine.start(10.0)
    assert engine.deadline == 10.0 + STARTING, "starting may take longer"
    engine.hear("WATCHDOG=1", 11.0)
    assert engine.deadline == 11.0 + STARTING
    engine.hear(READY, 12.0)
    engine.hear("WATCHDOG=1", 13.0)
    assert engine.deadline == 16.0
    engine.watchdog_seconds = None
    assert engine.deadline is None


def test_a_reload_reaches_one_that_starts_when_it_is_ready() -> None:
    reading, writing = os.pipe()

    def work() -> int:
        signal.signal(signal.SIGHUP, lambda *_: os.write(writing, b"reloads\n"))
        os.write(writing, b"there\n")
        while True:
            signal.pause()

    engine = EngineProcess("the hub", "test-hub", work, (writing,))
    engine.start(0.0)
    os.close(writing)
    with os.fdopen(reading) as said:
        engine.hang_up()
        assert said.readline() == "there\n"
        assert not engine.reloading
        engine.hear(READY, 1.0)
        assert said.readline() == "reloads\n"
        assert engine.reloading
        engine.hear("RELOADING=1\nMONOTONIC_USEC=1", 2.0)
        engine.hear("READY=1", 3.0)
        assert not engine.reloading
        assert engine.process
        engine.process.kill()


@pytest.mark.parametrize("error", [UsageError("a wrong word"), ValueError("a fault")])
def test_an_error_is_logged_and_becomes_its_exit_status(
    error: Exception, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> int:
        raise error

    handler = logging.StreamHandler(os.fdopen(2, "w", closefd=False))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])

    engine = EngineProcess("the hub", "test-hub", work)
    engine.start(0.0)
    assert engine.process
    status = getattr(error, "exit_status", 1)
    assert engine.process.wait(20) == status
    pid = engine.pid
    assert engine.ended(0.0) == f"the hub (process {pid}) has ended with exit status {status}"
    assert str(error) in capfd.readouterr().err
