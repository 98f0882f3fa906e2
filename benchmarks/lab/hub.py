"""A private hub with settings of its own, for one measurement."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.hubs import ALONE

from pagemerge.demo.dialog import end
from pagemerge.errors import HubError
from pagemerge.hub.model import Status
from pagemerge.hub.reach import fetch_status
from pagemerge.linux.accounts import cpu_seconds

START = 10.0
"""Seconds that a hub may take to answer for the first time."""


class Hub:
    """Made by ``running``."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
        self.process, self.path, self.log = process, path, log
        self.held = False

    def environment(self) -> dict[str, str]:
        """For programs that are to be its clients."""
        return {**os.environ, "PAGEMERGE_SOCKET": str(self.path), "PAGEMERGE_AUTOSTART": "0"}

    def status(self) -> Status:
        """Its counters. Raises ``HubError`` with its last words when it has ended."""
        if self.process.poll() is not None:
            words = self.log.read_text(errors="replace").strip()
            raise HubError(f"the hub ended, with exit status {self.process.returncode}: {words}")
        return fetch_status(self.path)

    def hold(self) -> None:
        """Stop it where it is."""
        self.process.send_signal(signal.SIGSTOP)
        self.held = True

    def release(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)
        self.held = False

    def cpu_seconds(self) -> float:
        """Its processor time."""
        return cpu_seconds(self.process.pid)


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
        with log.open("wb") as words:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=words, stderr=words, process_group=0
            )
        hub = Hub(process, path, log)
        try:
            _until_it_answers(hub)
            yield hub
        finally:
            if hub.held:
                hub.release()  # a stopped process would not see SIGTERM
            process.terminate()
            end(process)


def agents_cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time of the agents in processes ``pids``: their threads named ``pagemerge``."""
    ticks = 0
    for pid in pids:
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            head, _, rest = stat.read_bytes().rpartition(b")")
            if head.endswith(b"(pagemerge"):
                fields = rest.split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


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
