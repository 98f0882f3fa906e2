"""Every process that the demo starts, and the end of each of them on every path."""

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
"""Seconds between two looks at a hub that is at work."""


class Stage:
    """A private hub in a folder of its own, and the workers; a context that ends them all.

    ``barrier`` is what ``PAGEMERGE_BARRIER`` takes, or ``auto``. Whatever ends the context, and
    even if this process is killed, none of them stays.
    """

    def __init__(self, barrier: str) -> None:
        self._barrier = barrier
        self._held = False
        self.workers: list[Child] = []

    def __enter__(self) -> Self:
        with ExitStack() as started:
            # mkdtemp makes it 0700: nobody else can reach the socket.
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
        """Ask all workers at once."""
        return ask_all(self.workers, do, **arguments)

    def status(self) -> Status:
        """The hub's counters; raises ``HubError`` with its last words when it has gone."""
        self._alive()
        return fetch_status(self.socket)

    def clients(self) -> list[ClientStatus]:
        """The workers as the hub sees them; waits until it knows all of them."""
        pids = {worker.pid for worker in self.workers}
        found: list[ClientStatus] = []

        def all_there() -> bool:
            found[:] = [client for client in self.status().clients if client.pid in pids]
            return len(found) == len(pids)

        self.until(all_there, START, "know all workers")
        return found

    def until(self, done: Callable[[], bool], patience: float, what: str) -> None:
        """Ask ``done`` again and again, for ``patience`` seconds, while the hub is alive.

        Raises ``HubError`` when it ends, or does not do ``what`` in time.
        """
        deadline = time.monotonic() + patience
        while not done():
            if time.monotonic() > deadline:
                raise HubError(f"the hub did not {what} within {patience:g} s{self._words()}")
            try:
                self.hub.wait(TICK)  # a pause that ends at once if the hub does
            except subprocess.TimeoutExpired:
                continue
            self._alive()

    def hold(self) -> None:
        """Stop the hub where it is, so that memory can be measured as it was before merging."""
        self.hub.send_signal(signal.SIGSTOP)
        self._held = True

    def release(self) -> None:
        """Let the hub go on."""
        self.hub.send_signal(signal.SIGCONT)
        self._held = False

    def hub_cpu_seconds(self) -> float:
        """Processor time of the hub since it started."""
        return accounts.cpu_seconds(self.hub.pid)

    def _environment(self) -> dict[str, str]:
        env = {**os.environ, "PAGEMERGE_SOCKET": str(self.socket)}
        # A worker that outlives the hub by a moment would start another, which nobody ends.
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
            self.release()  # a stopped process would not see SIGTERM
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
