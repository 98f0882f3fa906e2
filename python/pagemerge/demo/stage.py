"""Starts the processes of the demo, and ends all of them on every path."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pagemerge.demo.dialog import Answer, Child, ask_all, end
from pagemerge.errors import HubError, PagemergeError
from pagemerge.hub.model import ClientStatus, Status
from pagemerge.hub.reach import fetch_status
from pagemerge.linux import accounts

START = 10.0
"""Seconds that the hub may take to answer for the first time."""

TICK = 0.02
"""Seconds between two looks at a hub that is working."""


class Stage:
    """A private hub in a folder of its own, and the workers; a context that ends them all.

    ``barrier`` is a value of ``PAGEMERGE_BARRIER``, or ``auto``. All processes end when the context
    ends, also by an exception, and when this process is killed.
    """

    def __init__(self, barrier: str) -> None:
        self._barrier = barrier
        self._held = False
        self.workers: list[Child] = []

    def __enter__(self) -> Self:
        with ExitStack() as started:
            # mkdtemp makes the folder with mode 0700, so no other user can reach the socket.
            folder = started.enter_context(tempfile.TemporaryDirectory(prefix="pagemerge-demo-"))
            self.socket = Path(folder) / "hub"
            self._log = Path(folder) / "log"
            self._env = self._environment()
            self.hub = self._start_hub()
            started.callback(self._end_hub)
            self.until(lambda: self._reached() is not None, START, "answer")
            self._started = started.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._started.__exit__(kind, error, trace)

    def start_workers(self, count: int) -> None:
        """Start ``count`` workers, and wait until they are ready."""
        argv = [sys.executable, "-m", "pagemerge.demo.worker", str(os.getpid())]
        for _ in range(count):
            self.workers.append(self._started.enter_context(Child(argv, env=self._env)))

    def ask(self, do: str, **arguments: Any) -> list[Answer]:
        """Ask all workers at once, and return their answers."""
        return ask_all(self.workers, do, **arguments)

    def status(self) -> Status:
        """Read the hub's counters.

        Raises ``PagemergeError`` with the last line of its log if the hub has ended, and
        ``HubError`` if it does not answer.
        """
        self._alive()
        return fetch_status(self.socket)

    def clients(self) -> list[ClientStatus]:
        """Return the workers as the hub sees them; waits until it knows all of them."""
        pids = {worker.pid for worker in self.workers}
        found: list[ClientStatus] = []

        def all_there() -> bool:
            found[:] = [client for client in self.status().clients if client.pid in pids]
            return len(found) == len(pids)

        self.until(all_there, START, "know all workers")
        return found

    def until(self, done: Callable[[], bool], patience: float, what: str) -> None:
        """Call ``done`` again and again until it is true, for ``patience`` seconds.

        Raises ``HubError`` if the hub does not do ``what`` in time, and ``PagemergeError`` if the
        hub ends.
        """
        deadline = time.monotonic() + patience
        while not done():
            if time.monotonic() > deadline:
                raise HubError(f"the hub did not {what} within {patience:g} s{self._words()}")
            try:
                self.hub.wait(TICK)  # a pause that ends at once if the hub ends
            except subprocess.TimeoutExpired:
                continue
            self._alive()

    def hold(self) -> None:
        """Stop the hub, so that memory can be measured as it is before merging."""
        self.hub.send_signal(signal.SIGSTOP)
        self._held = True

    def release(self) -> None:
        """Let the hub continue."""
        self.hub.send_signal(signal.SIGCONT)
        self._held = False

    def hub_cpu_seconds(self) -> float:
        """Read the processor time of the hub since it started, in seconds."""
        return accounts.cpu_seconds(self.hub.pid)

    def _environment(self) -> dict[str, str]:
        env = {**os.environ, "PAGEMERGE_SOCKET": str(self.socket)}
        # A worker that outlives the hub by a moment would start another hub, which no process of
        # the demo would end.
        env["PAGEMERGE_AUTOSTART"] = "0"
        env.pop("PAGEMERGE_BARRIER", None)
        if self._barrier != "auto":
            env["PAGEMERGE_BARRIER"] = self._barrier
        return env

    def _start_hub(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "pagemerge.demo.hub", str(os.getpid())]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*argv, "--socket", str(self.socket)],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def _end_hub(self) -> None:
        if self._held:
            self.release()  # a stopped process does not act on SIGTERM
        self.hub.terminate()
        end(self.hub)

    def _reached(self) -> Status | None:
        try:
            return self.status()
        except HubError:
            self._alive()
            return None

    def _alive(self) -> None:
        status = self.hub.poll()
        if status is not None:
            raise PagemergeError(f"the hub ended, with exit status {status}{self._words()}")

    def _words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""
