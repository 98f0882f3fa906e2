"""An engine is started again at once after steady work, and later and later if it cannot work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pagemerge.service.process import LONGEST, SOON, STEADY, EngineProcess

READY = "READY=1\nSTATUS=works"


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    """Waits for the end of its input, and prints nothing."""
    made = EngineProcess("the hub", [sys.executable, "-c", "import signal; signal.pause()"])
    yield made
    if made.process:
        made.process.kill()
        made.process.wait()


def kill(engine: EngineProcess, now: float, number: int = signal.SIGKILL) -> str:
    """Kill it, and return how it has ended, for the log."""
    assert engine.process
    pid = engine.pid
    engine.process.send_signal(number)
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


def test_a_program_that_is_not_there_is_tried_again() -> None:
    engine = EngineProcess("the hub", ["/nothing/of/this/name"])
    engine.start(5.0)
    assert (engine.process, engine.due) == (None, 5.0)
    engine.start(5.0)
    assert engine.due == 5.0 + SOON


def test_it_is_to_be_heard_in_time(engine: EngineProcess) -> None:
    engine.watchdog_seconds = 3.0
    engine.start(10.0)
    assert engine.deadline is None, "starting may take long"
    engine.hear(READY, 11.0)
    engine.hear("WATCHDOG=1", 12.0)
    assert engine.deadline == 15.0


def test_a_reload_reaches_one_that_starts_when_it_is_ready() -> None:
    code = (
        "import signal\n"
        "signal.signal(signal.SIGHUP, lambda *_: print('reloads', flush=True))\n"
        "print('there', flush=True)\n"
        "while True: signal.pause()"
    )
    engine = EngineProcess("the hub", [sys.executable, "-c", code])
    reading, writing = os.pipe()
    before = os.dup(1)
    os.dup2(writing, 1)
    try:
        engine.start(0.0)
    finally:
        os.dup2(before, 1)
        os.close(writing)
        os.close(before)
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
        engine.process.wait()


def test_it_gets_the_daemons_descriptors_and_ends_with_it() -> None:
    """The daemon is killed: the kernel has the engine end as upon SIGTERM."""
    engine = (
        "import os, signal, sys\n"
        "from pagemerge.service.handover import taken\n"
        "found = taken()\n"
        "os.write(found['out'], b'%d' % os.getpid())\n"
        "signal.pause()"
    )
    daemon = (
        "import os, signal, sys\n"
        "from pagemerge.service.process import EngineProcess\n"
        f"EngineProcess('it', [sys.executable, '-c', {engine!r}], {{'out': 1}}).start(0)\n"
        "signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", daemon], stdout=subprocess.PIPE) as process:
        assert process.stdout
        pid = int(os.read(process.stdout.fileno(), 100))
        process.kill()
        # It holds the other end of the pipe until it has ended.
        assert process.stdout.read() == b""
    assert pid != process.pid
