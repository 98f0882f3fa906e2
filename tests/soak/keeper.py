"""The hub of a soak: started, killed, stopped, asked and measured."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from pagemerge.demo.dialog import end
from pagemerge.errors import HubError
from pagemerge.hub.model import Status
from pagemerge.hub.reach import fetch_status
from tests.soak import audit
from tests.soak.plan import SETTINGS
from tests.support.hubs import PATIENCE, launch, log_of

GROWTH, SLACK = 1.25, 16 << 20
"""The hub's memory in its last third may be that much of its first, and that many bytes more."""

CLIENT_DESCRIPTORS, OWN_DESCRIPTORS = 4, 24
"""Most descriptors of a hub that are no slab's: for each client, and for itself."""


@dataclass(slots=True)
class Keeper:
    """One hub after the other at one socket. ``faults`` is what they did wrong, in words."""

    socket: Path
    faults: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    stopped: bool = False
    started: int = 0
    killed: int = 0
    memory: list[int] = field(default_factory=list)
    """Of the present hub: bytes of its own, once a second."""
    descriptors: int = 0
    """Most that any hub had open, slabs included."""
    _answered: float = 0.0
    _most_work: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """Hub, client -> merges and separations, as last seen."""

    def start(self, settings: int) -> None:
        """Start a hub in the foreground."""
        self.process = launch(self.socket, "[hub]\n" + SETTINGS[settings])
        self.started += 1
        self.stopped, self.memory = False, []
        self._answered = time.monotonic()

    def kill(self) -> None:
        """SIGKILL, wherever it is."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.killed += 1

    def stop(self) -> None:
        """SIGSTOP."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)
            self.stopped = True

    def resume(self) -> None:
        """SIGCONT."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
        self.stopped, self._answered = False, time.monotonic()

    def close(self) -> None:
        """SIGTERM; it has to end by itself, and well."""
        if self.process is None:
            return
        self.process.terminate()
        status = end(self.process, PATIENCE)
        if status:
            self.faults.append(f"the hub ended with status {status} when it was told to end")
        self.process = None
        self._read_log()

    def look(self) -> Status | None:
        """Ask and measure the hub, if it runs; none otherwise. A hub that ended is replaced."""
        if self.process is None or self.stopped:
            return None
        if self.process.poll() is not None:
            self.faults.append(f"the hub ended by itself, with status {self.process.returncode}")
            self._read_log()
            self.start(0)
            return None
        try:
            status = fetch_status(self.socket, timeout=5.0)
        except HubError as error:
            if time.monotonic() - self._answered > PATIENCE:
                self.faults.append(f"the hub has not answered for {PATIENCE:g} s: {error}")
                self.kill()
                self.start(0)
            return None
        self._answered = time.monotonic()
        for client in status.clients:
            now = (client.merges, client.separations)
            self._most_work[self.started, client.pid] = now
        self._measure(status)
        return status

    def _measure(self, status: Status) -> None:
        assert self.process is not None
        slabs, others = audit.descriptors(self.process.pid)
        self.memory.append(audit.resident_bytes(self.process.pid))
        self.descriptors = max(self.descriptors, slabs + others)
        most = OWN_DESCRIPTORS + CLIENT_DESCRIPTORS * (len(status.clients) + 8)
        if others > most:
            self.faults.append(
                f"leaked descriptors: the hub has {others} that are no slab's, for "
                f"{len(status.clients)} clients; at most {most} are accounted for"
            )
        self._read_log()

    def _read_log(self) -> None:
        """A traceback in the log is a fault, told once with its last lines."""
        log = log_of(self.socket)
        text = log.read_text(errors="replace")
        if "Traceback" in text:
            at = text.index("Traceback")
            self.faults.append(f"the hub logged an exception: {text[at : at + 1500]}")
            log.write_text("")

    def work(self) -> tuple[int, int]:
        """Merges and separations by all hubs, as far as they were seen."""
        rows = self._most_work.values()
        return sum(merges for merges, _ in rows), sum(separations for _, separations in rows)

    @property
    def pid(self) -> int:
        """The hub's process; 0 if none runs."""
        return self.process.pid if self.process is not None else 0


def thirds(samples: list[int]) -> tuple[int, int] | None:
    """The means of the first and of the last third, without the start; none if there are few."""
    settled = samples[20:]
    third = len(settled) // 3
    if third < 15:
        return None
    return sum(settled[:third]) // third, sum(settled[-third:]) // third


def growth(samples: list[int]) -> str | None:
    """In words, if the memory of a hub has grown and must not have."""
    means = thirds(samples)
    if means is None or means[1] <= means[0] * GROWTH + SLACK:
        return None
    first, last = (mean / 2**20 for mean in means)
    return f"the hub's memory grew from {first:.1f} to {last:.1f} MiB (first third, last third)"
