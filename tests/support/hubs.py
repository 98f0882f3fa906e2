"""A hub of a test alone: a real ``pagemerge daemon`` with its own socket, settings and log."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pagemerge.demo.dialog import end
from pagemerge.errors import HubError
from pagemerge.hub.model import ClientStatus, Status
from pagemerge.hub.reach import fetch_status

T = TypeVar("T")

FAST = """[hub]
looks = 1
cpu_percent = 100
idle_percent = 100
again_percent = 100
longest_hold = 0
longest_pause = 0.05
"""
"""Merge at first sight, as fast as the hub can, whatever was merged in vain before."""

ALONE = """
[service]
api = false
history = false
"""
"""The daemon runs its engine alone, in its own process."""

PATIENCE = 40.0
"""Seconds that anything may take on a busy host."""

TICK = 0.02
"""Seconds between two questions to a hub that is at work."""


def launch(
    socket: Path,
    config: str,
    *,
    arguments: Sequence[str] = (),
    before: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a hub in the foreground; it may not answer yet. Its log is appended to ``log_of``.

    ``before`` goes before its command line (a cgroup's prefix, say), ``arguments`` behind it.
    """
    settings = Path(f"{socket}.toml")
    settings.write_text(config + ALONE)
    argv = [*before, sys.executable, "-m", "pagemerge", "daemon", "--socket", str(socket)]
    with log_of(socket).open("ab") as log:
        return subprocess.Popen(
            [*argv, "--config", str(settings), *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )


def log_of(socket: Path) -> Path:
    """The log of the hubs at a socket."""
    return Path(f"{socket}.log")


def until(done: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """Ask until something holds, and return it; the hub is none of a ``Hub`` of ours."""
    deadline = time.monotonic() + patience
    while not (found := done()):
        assert time.monotonic() < deadline, f"the hub did not {what} within {patience:g} s"
        time.sleep(TICK)
    return found


def asked(socket: Path) -> Status | None:
    """The counters of the hub at a socket, if one answers there."""
    try:
        return fetch_status(socket)
    except HubError:
        return None


@contextmanager
def ends_at_last(socket: Path) -> Iterator[None]:
    """Hubs that agents start are nobody's children: none is left behind by a test that fails."""
    try:
        yield
    finally:
        status = asked(socket)
        if status is not None:
            handle = os.pidfd_open(status.hub_pid)
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            until(lambda: ended(handle), "end when it is told to")
            os.close(handle)


def ended(handle: int) -> bool:
    """Has the process behind a pidfd ended?"""
    return bool(select.select([handle], [], [], 0.02)[0])


class Hub:
    """A hub in the foreground, as a context; ``env`` is what makes a program its client.

    How it is started says ``launch``.
    """

    def __init__(
        self,
        socket: Path,
        config: str = FAST,
        *,
        arguments: Sequence[str] = (),
        before: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self.socket = socket
        self.env = {"PAGEMERGE_SOCKET": str(socket), "PAGEMERGE_AUTOSTART": "0"}
        self._config = config
        self._before, self._arguments = before, arguments
        self._environment = environment

    def __enter__(self) -> Self:
        self.process = launch(
            self.socket,
            self._config,
            arguments=["--verbose", *self._arguments],
            before=self._before,
            env={**os.environ, **self._environment},
        )
        self.until(self._answers, "answer")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        end(self.process)
        if kind is not None:
            print(self.log())

    @property
    def pid(self) -> int:
        """The hub's process."""
        return self.process.pid

    def log(self) -> str:
        """What the hub has said."""
        return log_of(self.socket).read_text(errors="replace")

    def status(self) -> Status:
        """The counters; ``AssertionError`` with the log if the hub has ended."""
        self.assert_alive()
        return fetch_status(self.socket, timeout=PATIENCE)

    def client(self, pid: int) -> ClientStatus | None:
        """The row of one client, if it is there."""
        return next((it for it in self.status().clients if it.pid == pid), None)

    def assert_alive(self) -> None:
        """The hub still runs, and nothing of its own making has gone wrong."""
        status = self.process.poll()
        assert status is None, f"the hub ended with {status}:\n{self.log()}"
        assert "Traceback" not in self.log(), self.log()

    def until(self, done: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
        """Ask ``done`` again and again while the hub is alive, and fail when it takes too long."""
        deadline = time.monotonic() + patience
        while not done():
            assert time.monotonic() < deadline, f"the hub did not {what}:\n{self.log()}"
            try:
                self.process.wait(TICK)  # a pause that ends at once if the hub does
            except subprocess.TimeoutExpired:
                continue
            self.assert_alive()

    def _answers(self) -> bool:
        try:
            fetch_status(self.socket, timeout=PATIENCE)
        except HubError:
            return False
        return True
