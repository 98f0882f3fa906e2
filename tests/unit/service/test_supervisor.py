"""The daemon hears its engines, and replaces those that hang; its loop does not turn in vain."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pagemerge.linux.notify import Notifier, notifier
from pagemerge.service import process
from pagemerge.service.process import EngineProcess
from pagemerge.service.supervisor import Supervisor


def test_a_reload_before_the_start_leaves_nothing_to_wait_for() -> None:
    """Else the loop would turn at full speed once the time for the reload is over."""
    supervisor = Supervisor([], Notifier(), line="", reread=lambda: True)
    supervisor._reload(1000.0)
    assert supervisor._wait(2000.0) is None


def test_an_engine_that_hangs_before_it_is_ready_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one works, the second hangs, the third works and has the daemon end."""
    monkeypatch.setattr(process, "STARTING", 1.0)

    def work() -> int:
        starts = tmp_path / "starts"
        with starts.open("a") as file:
            file.write("x")
        number = len(starts.read_text())
        if number == 2:
            time.sleep(60.0)
        notifier().ready(f"works for the {number}. time")
        if number == 3:
            os.kill(os.getppid(), signal.SIGTERM)
            signal.sigwait({signal.SIGTERM})
        return 1

    engine = EngineProcess("the hub", "test-hub", work)
    assert Supervisor([engine], Notifier(), line="begins", reread=lambda: True).run() == 0
    told = [it.replace(f"(process {engine.pid})", "(process PID)") for it in caplog.messages]
    assert engine.starts == 3
    assert engine.status == "works for the 3. time"
    assert "has ended with exit status 1; it starts again" in told[0]
    assert "has shown no sign of life for 1 s: it is killed" in told[1]
    assert "was killed by SIGKILL; it starts again" in told[2]
