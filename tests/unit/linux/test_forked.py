"""A forked child has nothing of its parent but its memory, and ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pagemerge.linux.forked import Forked


def waits() -> int:
    """Wait for a signal."""
    signal.pause()
    return 0


def test_it_tells_how_it_has_ended() -> None:
    assert Forked(lambda: 7, "child").wait(20) == 7
    child = Forked(waits, "child")
    assert child.poll() is None
    assert child.wait(0.01) is None
    child.kill()
    assert child.wait() == child.poll() == -signal.SIGKILL
    child.send(signal.SIGKILL)  # it may be any process's pid by now


def test_a_fault_is_told_and_does_not_return_into_our_code(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def work() -> int:
        raise ZeroDivisionError("of the child")

    parent = os.getpid()
    assert Forked(work, "child").wait(20) == 1
    assert os.getpid() == parent
    assert "child has a fault: ZeroDivisionError: of the child" in capfd.readouterr().err


def test_signals_descriptors_and_its_name_are_its_own() -> None:
    """A handler of the parent does not run in the child, not even for the first signal."""
    reading, writing = os.pipe()
    other = os.open("/dev/null", os.O_RDONLY)
    before = signal.signal(signal.SIGTERM, lambda *_: os.write(writing, b"the parent's handler"))

    def work() -> int:
        open_now = set(os.listdir("/proc/self/fd")) - {"0", "1", "2", str(writing)}  # noqa: PTH208
        with open("/proc/self/comm") as file:  # noqa: PTH123
            name = file.read().strip()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        told = [name, len(open_now), other in map(int, open_now), len(blocked), os.getpgrp()]
        os.write(writing, repr(told).encode())
        signal.pause()
        return 0

    try:
        child = Forked(work, "pagemerge-child", {writing})
        told = os.read(reading, 1000).decode()
        # One descriptor is that of the list itself.
        assert told == repr(["pagemerge-child", 1, False, 0, child.pid])
        child.send(signal.SIGTERM)
        assert child.wait(20) == -signal.SIGTERM
        for _ in range(20):
            early = Forked(waits, "child")
            early.send(signal.SIGTERM)
            assert early.wait(20) == -signal.SIGTERM
        os.close(writing)
        assert os.read(reading, 1000) == b""
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(reading)
        os.close(other)


def test_it_ends_with_its_parent() -> None:
    """The parent is killed: the kernel has the child end as upon SIGTERM."""
    code = (
        "import os, signal\n"
        "from pagemerge.linux.forked import Forked\n"
        "def work():\n"
        "    os.write(1, b'%d\\n' % os.getpid())\n"
        "    signal.pause()\n"
        "Forked(work, 'child')\n"
        "signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.kill()
        # The child holds the other end of the pipe until it has ended.
        began = time.monotonic()
        assert parent.stdout.read() == b""
        assert time.monotonic() - began < 20
    assert pid != parent.pid


def test_a_child_that_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    pids = []

    def none_left(pid: int) -> int:
        pids.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        Forked(waits, "child")
    with pytest.raises(ChildProcessError):
        os.waitpid(pids[0], os.WNOHANG)
