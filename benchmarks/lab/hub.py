"""A private hub with settings of its own, for one measurement."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.hubs import ALONE

from pagemerge.demo.dialog import end
from pagemerge.errors import HubError, PagemergeError
from pagemerge.hub.model import Status
from pagemerge.hub.reach import fetch_status
from pagemerge.linux.accounts import cpu_seconds
from pagemerge.linux.values import number, pairs

START = 10.0
"""Seconds that a hub may take to answer for the first time."""


class Hub:
    """Made by ``running``."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]], path: Path, log: Path) -> None:
        self._start = start
        self.process, self.path, self.log = start(), path, log
        self.held = False
        self.deaths: list[str] = []
        """How those before this one have ended."""
        self._spent, self._spent_before = 0.0, 0.0
        self._peak_bytes = 0
        self._is_new = False

    def environment(self) -> dict[str, str]:
        """For programs that are to be its clients."""
        return {**os.environ, "PAGEMERGE_SOCKET": str(self.path), "PAGEMERGE_AUTOSTART": "0"}

    def revive(self) -> None:
        """Start another at the same socket if it has ended, as a service does: its clients look for
        the next one. Does not wait until that answers."""
        if self.process.poll() is None:
            return
        self.deaths.append(ending(self.process.returncode))
        self._spent_before, self._spent = self._spent_before + self._spent, 0.0
        self.process, self._is_new = self._start(), True

    def status(self) -> Status:
        """Its counters. Raises ``HubError`` with its last words when it has ended."""
        if self.process.poll() is not None:
            words = self.log.read_text(errors="replace").strip()
            raise HubError(f"the hub {ending(self.process.returncode)}: {words}")
        return fetch_status(self.path)

    def answers(self) -> bool:
        """Does it listen, if it was started again?"""
        if self._is_new:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(1.0)
                peer.connect(str(self.path))
                self._is_new = False
        return not self._is_new

    def peak_bytes(self) -> int:
        """The most memory that it has had resident (VmHWM of proc(5)), as last seen."""
        with contextlib.suppress(PagemergeError, OSError):
            status = pairs(Path(f"/proc/{self.process.pid}/status").read_bytes())
            found = number(status.get(b"VmHWM"), b"kB") or 0
            self._peak_bytes = max(self._peak_bytes, found * 1024)
        return self._peak_bytes

    def hold(self) -> None:
        """Stop it where it is."""
        self.process.send_signal(signal.SIGSTOP)
        self.held = True

    def release(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)
        self.held = False

    def cpu_seconds(self) -> float:
        """Its processor time, and that of those before it, as last seen."""
        with contextlib.suppress(PagemergeError):
            self._spent = max(self._spent, cpu_seconds(self.process.pid))
        return self._spent_before + self._spent


def ending(code: int) -> str:
    """How a process has ended, from its exit status as subprocess has it."""
    if code >= 0:
        return f"ended with exit status {code}"
    return f"was killed by {signal.Signals(-code).name}"


@contextlib.contextmanager
def running(prefix: Sequence[str] = (), **settings: float) -> Iterator[Hub]:
    """A hub with a ``[hub]`` table of ``settings``; ``prefix`` goes before its command line."""
    with tempfile.TemporaryDirectory(prefix="pagemerge-bench-") as folder:
        Path(folder).chmod(0o711)  # programs of other users are clients, too
        config, path, log = (Path(folder) / name for name in ("config.toml", "hub", "log"))
        config.write_text(
            "[hub]\n" + "".join(f"{key} = {it}\n" for key, it in settings.items()) + ALONE
        )
        argv = [*prefix, sys.executable, "-m", "pagemerge.demo.hub", str(os.getpid())]
        argv += ["--socket", str(path), "--config", str(config)]

        def start() -> subprocess.Popen[bytes]:
            with log.open("ab") as words:
                return subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=words, stderr=words, process_group=0
                )

        hub = Hub(start, path, log)
        try:
            _until_it_answers(hub)
            yield hub
        finally:
            if hub.held:
                hub.release()  # a stopped process would not see SIGTERM
            hub.process.terminate()
            end(hub.process)


def agents_cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time of the agents in processes ``pids``: their threads named ``pagemerge``.

    From schedstat, in nanoseconds: an agent often takes less than one of the ticks of stat.
    """
    spent = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "comm").read_bytes() == b"pagemerge\n":
                spent += int((task / "schedstat").read_bytes().split()[0])
    return spent / 1e9


def _until_it_answers(hub: Hub) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            hub.status()
            return
        except HubError:
            if hub.process.poll() is not None or time.monotonic() > deadline:
                raise
        time.sleep(0.02)
