"""What a supervising program is told, over a real socket, and what it hands over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge.linux.notify import Notifier, notifier, passed


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver


def test_each_state_is_one_datagram(inbox: socket.socket) -> None:
    told = Notifier(inbox.getsockname(), watchdog_seconds=60.0)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    told.ready("serves\x1b[2J 3 clients")
    told.reloading()
    told.stopping()
    told.alive()
    assert inbox.recv(4096) == b"READY=1\nSTATUS=serves\\x1b[2J 3 clients"
    state, _, when = inbox.recv(4096).partition(b"\nMONOTONIC_USEC=")
    assert state == b"RELOADING=1"
    assert before <= int(when) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert inbox.recv(4096) == b"STOPPING=1"
    assert inbox.recv(4096) == b"WATCHDOG=1"


def test_what_was_told_is_not_told_again(inbox: socket.socket) -> None:
    told = Notifier(inbox.getsockname(), watchdog_seconds=60.0, pause_seconds=0.0)
    for _ in range(100):
        told.alive()
        told.status("the same")
    told.status("another")
    said = [inbox.recv(4096) for _ in range(3)]
    assert said == [b"WATCHDOG=1", b"STATUS=the same", b"STATUS=another"]


def test_a_line_that_changes_all_the_time_is_told_seldom(inbox: socket.socket) -> None:
    told = Notifier(inbox.getsockname(), pause_seconds=60.0)
    for number in range(100):
        told.status(f"status {number}")
    told.ready("ready")
    assert [inbox.recv(4096) for _ in range(2)] == [b"STATUS=status 0", b"READY=1\nSTATUS=ready"]


def test_a_full_or_missing_socket_holds_nothing_up(inbox: socket.socket, tmp_path: Path) -> None:
    told = Notifier(inbox.getsockname(), pause_seconds=0.0)
    began = time.monotonic()
    for number in range(2000):  # more than the socket holds
        told.status(f"status {number}")
    assert time.monotonic() - began < 1.0
    Notifier(str(tmp_path / "nothing")).ready()
    Notifier().ready()


def test_a_socket_that_was_passed() -> None:
    inbox, outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with inbox, outbox:
        told = notifier({"NOTIFY_SOCKET": f"fd:{outbox.fileno()}"})
        told.pause_seconds = 0.0
        began = time.monotonic()
        for number in range(2000):  # more than the socket holds
            told.status(f"status {number}")
        assert time.monotonic() - began < 1.0
        assert outbox.getblocking(), "other processes have it, too"
        assert inbox.recv(4096) == b"STATUS=status 0"
        while inbox.recv(4096) != b"STATUS=status 9":
            pass
        told.ready("serves")
    told.ready("nobody listens")


def test_the_environment_says_where(tmp_path: Path) -> None:
    assert notifier({}).address == ""
    for wrong in ("vsock:2:1", "fd:", "fd:x", "fd:1_0", "fd:-1", "fd:9999999999"):
        assert notifier({"NOTIFY_SOCKET": wrong}).address == ""
    mine = {"NOTIFY_SOCKET": "@a", "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}
    assert notifier(mine).beat_seconds == 2.0
    assert notifier({**mine, "WATCHDOG_PID": "1"}).beat_seconds is None
    assert notifier({**mine, "WATCHDOG_USEC": "soon"}).beat_seconds is None


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0pagemerge-test-{os.getpid()}")
        receiver.settimeout(5)
        Notifier(f"@pagemerge-test-{os.getpid()}").ready()
        assert receiver.recv(100) == b"READY=1"


def test_descriptors_are_taken_once_and_only_by_the_process_that_they_are_for() -> None:
    code = (
        "import os\n"
        "from pagemerge.linux.notify import passed\n"
        "os.dup2(1, 3); os.dup2(1, 4)\n"
        "os.environ.update(LISTEN_FDS='2', LISTEN_FDNAMES='hub:api', LISTEN_PID=str(os.getpid()))\n"
        "print(passed(), [os.get_inheritable(it) for it in (3, 4)], passed(),\n"
        "      'LISTEN_FDS' in os.environ)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "{'hub': 3, 'api': 4} [False, False] {} False\n"
    assert passed({"LISTEN_FDS": "1", "LISTEN_PID": "1"}) == {}
    assert passed({"LISTEN_FDS": "1"}) == {}
    assert passed({"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())}) == {}
