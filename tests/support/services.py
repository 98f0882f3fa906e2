"""A daemon with both engines for one test: its log, its messages to systemd, its engines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from pagemerge.demo.dialog import end
from pagemerge.errors import HubError, PagemergeError
from pagemerge.hub.model import Status
from pagemerge.hub.reach import fetch_status
from pagemerge.ksmd.borrowing import NOTE
from pagemerge.linux import process as linux
from pagemerge.linux.knobs import Knobs
from pagemerge.linux.ksm import Ksm
from tests.support import ksm as lab
from tests.support.commands import PAGEMERGE
from tests.support.hubs import FAST, PATIENCE, TICK

BOTH = f'[service]\nengines = ["user", "kernel"]\n{FAST}'

PARTS = {"hub": "pagemerge-hub", "governor": "pagemerge-ksm", "watch": "pagemerge-watch"}
"""Part of the daemon -> the name of its process."""


@contextmanager
def odd_knobs() -> Iterator[Knobs]:
    """Knobs of ksmd unlike any that a governor writes, and no note of a governor; yields them.

    The lock is free for a daemon. At the end, what was merged meanwhile is forgotten: a stopped
    ksmd would go on counting it.
    """
    ksm, measured = Ksm(), lab.Ksm()
    saved = ksm.knobs()
    NOTE.unlink(missing_ok=True)
    try:
        if saved.advisor_mode is not None:
            ksm.write(advisor_mode="none")
        ksm.write(run=0, pages_to_scan=123, sleep_millisecs=45)
        yield ksm.knobs()
    finally:
        NOTE.unlink(missing_ok=True)
        try:
            measured.forget()
        finally:
            ksm.put_back(saved)


class Service:
    """``pagemerge daemon --config FILE`` with both engines, as a context."""

    def __init__(
        self,
        socket_path: Path,
        config: str = BOTH,
        *arguments: str,
        watchdog_seconds: float | None = None,
    ) -> None:
        self.socket = socket_path
        self.config = Path(f"{socket_path}.toml")
        self.config.write_text(config)
        self.env = {"PAGEMERGE_SOCKET": str(socket_path), "PAGEMERGE_AUTOSTART": "0"}
        self.history = Path(f"{socket_path}.history")
        self.told: list[bytes] = []
        """Messages to NOTIFY_SOCKET, oldest first."""
        self._arguments, self._watchdog = arguments, watchdog_seconds
        self._log = Path(f"{socket_path}.log")

    def __enter__(self) -> Self:
        self._inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        address = f"{self.socket}.told"
        Path(address).unlink(missing_ok=True)
        self._inbox.bind(address)
        env: Mapping[str, str] = {
            **os.environ,
            "NOTIFY_SOCKET": address,
            "PAGEMERGE_HISTORY": str(self.history),
        }
        if self._watchdog is not None:
            env = {**env, "WATCHDOG_USEC": str(round(self._watchdog * 1e6))}
        argv = [*PAGEMERGE, "daemon", "--config", str(self.config), "--socket", str(self.socket)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, *self._arguments], env=env, stdout=log, stderr=log, process_group=0
            )
        try:
            self.until(lambda: self.has_told(b"READY=1"), "get ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        end(self.process, PATIENCE)
        self._inbox.close()
        if kind is not None:
            print(self.log())

    def log(self) -> str:
        """All that the daemon and its engines have said."""
        return self._log.read_text(errors="replace")

    def engine(self, name: str) -> int:
        """The pid of the ``hub``, the ``governor`` or the ``watch``; 0 if it does not run."""
        for pid in linux.pids():
            try:
                found = linux.stat(pid)
            except PagemergeError:
                continue
            if (found.parent, found.name) == (self.process.pid, PARTS[name]):
                return pid
        return 0

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a running engine a signal; returns its pid."""
        self.until(lambda: self.engine(name), f"have a {name}")
        pid = self.engine(name)
        os.kill(pid, number)
        return pid

    def status(self) -> Status:
        """What the hub counts."""
        return fetch_status(self.socket, timeout=PATIENCE)

    def hub_after(self, killed: int) -> int:
        """Wait for the hub after the one that was killed; returns its pid."""
        found: list[int] = []

        def answers() -> bool:
            try:
                found.append(self.status().hub_pid)
            except HubError:
                return False
            return found[-1] != killed

        self.until(answers, "have another hub")
        return found[-1]

    def has_told(self, message: bytes) -> bool:
        """Has it told systemd this? Reads what is new."""
        try:
            while True:
                self.told.append(self._inbox.recv(4096))
        except BlockingIOError:
            return any(message in it.split(b"\n") for it in self.told)

    def until(self, done: Callable[[], object], what: str) -> None:
        """Wait for something while the daemon is alive; fail when it takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, f"the daemon did not {what}:\n{self.log()}"
            try:
                status = self.process.wait(TICK)  # a pause that ends at once if the daemon does
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"the daemon ended with {status}:\n{self.log()}")
