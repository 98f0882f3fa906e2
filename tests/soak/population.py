"""The victims of a soak: real processes, what they counted, and how they end."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pagemerge.demo.dialog import Child
from pagemerge.errors import PagemergeError, Unsupported
from tests.conftest import lacks_cc, lacks_kvm
from tests.soak import audit
from tests.soak.plan import Start
from tests.soak.tally import PARTS, Tally
from tests.support.building import VICTIMS, compile_victim

ROOT = Path(__file__).parents[2]

SILENCE = 60.0
"""Seconds in which a thread of a victim must get somewhere."""


class Built(NamedTuple):
    """Victims in C, compiled."""

    program: Path
    """``soaker.c`` as a program."""
    library: Path
    """``soaker.c`` as a library."""
    machine: Path | None
    """``kvm.c``; none where the host has no KVM."""


def build(folder: Path) -> Built:
    """Compile the victims. Raises ``Unsupported`` without a compiler."""
    if reason := lacks_cc():
        raise Unsupported(f"{reason}, and victims in Python write too slowly")
    program = compile_victim("soaker.c", folder / "soaker", "-pthread")
    library = compile_victim("soaker.c", folder / "soaker.so", "-pthread", "-shared", "-fPIC")
    machine = None if lacks_kvm() else compile_victim("kvm.c", folder / "kvm", "-pthread")
    return Built(program, library, machine)


class Victim:
    """One process of the population."""

    def __init__(self, start: Start, folder: Path, built: Built, socket: Path) -> None:
        self.start = start
        path = folder / f"{start.serial}.tally"
        with path.open("w+b") as file:
            file.truncate(ctypes.sizeof(Tally))
            self.tally = Tally.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Tally)))
        program = built.machine if start.guest else built.program
        pages = start.pages * PARTS if start.guest else start.pages  # a machine has one part
        numbers = (start.serial, start.seed, pages, start.writers, start.pause)
        words = [str(path), *map(str, numbers)]
        python = [sys.executable, str(VICTIMS / "soaker.py"), str(built.library)]
        run = [sys.executable, "-m", "pagemerge", "run", "--barrier", start.barrier]
        run += ["--all", "--"] if start.unmarked else ["--"]
        argv = [*run, str(program), *words] if start.program else [*python, *words]
        env = {"PAGEMERGE_SOCKET": str(socket), "PAGEMERGE_AUTOSTART": "0"}
        env.update(PAGEMERGE_BARRIER=start.barrier, PYTHONPATH=str(ROOT))
        if start.unmarked:
            env.update(PAGEMERGE_EAGER="1")
        self.child = Child(argv, env={**os.environ, **env})
        path.unlink()
        self.pid = self.child.pid
        self.stopped = False
        self._turns, self._since = 0, time.monotonic()
        self._frozen: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        kind = "machine" if self.start.guest else "program" if self.start.program else "member"
        kind = "unmarked program" if self.start.unmarked else kind
        return f"{kind} {self.start.serial} (process {self.pid}, {self.start.barrier})"

    def stop(self) -> None:
        """SIGSTOP."""
        self.child.process.send_signal(signal.SIGSTOP)
        self.stopped, self._frozen = True, None

    def resume(self) -> str | None:
        """SIGCONT; in words, if it did not stand still until now."""
        moved = self._frozen is not None and self.tally.writes != self._frozen
        self.child.process.send_signal(signal.SIGCONT)
        self.stopped, self._since = False, time.monotonic()
        return f"{self.name} went on writing though it was stopped" if moved else None

    def look(self) -> str | None:
        """In words, if it has ended by itself, or hangs."""
        status = self.child.process.poll()
        if status is not None:
            return f"{self.name} ended by itself, with status {status}"
        now = time.monotonic()
        if self.stopped:
            if self._frozen is None and audit.stands_still(self.pid):
                self._frozen = int(self.tally.writes)
        elif self.tally.turns != self._turns:
            self._turns, self._since = int(self.tally.turns), now
        elif now - self._since > SILENCE:
            return f"{self.name} has not moved for {SILENCE:g} s: {self._waits()}"
        return None

    def _waits(self) -> str:
        """Where its threads wait, as the kernel tells root."""
        said = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                said.append(f"{task.name}: {(task / 'wchan').read_text()}")
            except OSError as error:
                said.append(f"{task.name}: {error.strerror}")
        return ", ".join(said)

    def kill(self) -> None:
        """SIGKILL."""
        self.child.process.kill()
        self.child.close()

    def exit(self) -> None:
        """Have it end at once, in the middle of everything."""
        self.child.question("leave")
        self.child.process.wait(SILENCE)
        self.child.close()

    def leave(self) -> str | None:
        """End it by the end of its input; in words, if it did not end well."""
        status = self.child.close(patience=20.0)
        return f"{self.name} left with status {status}" if status else None


class Ledger:
    """What all victims counted, those that have gone included."""

    def __init__(self) -> None:
        self.gone: Counter[str] = Counter()
        self.faults: list[str] = []

    def close(self, victim: Victim) -> None:
        """A victim has gone: keep what it said."""
        self.gone.update(victim.tally.counts())
        self.faults += [f"{victim.name}: {fault}" for fault in victim.tally.faults()]

    def total(self, alive: Iterable[Victim]) -> Counter[str]:
        """All counts as they are now."""
        total = Counter(self.gone)
        for victim in alive:
            total.update(victim.tally.counts())
        return total


def check(victims: Iterable[Victim]) -> list[tuple[Victim, str]]:
    """Have all verify every page at once; those that could not, and why. Their tallies tell what
    is wrong."""
    failed, asked = [], []
    for victim in victims:
        try:
            victim.child.question("check")
            asked.append(victim)
        except PagemergeError as error:
            failed.append((victim, f"{victim.name} was asked for a check: {error}"))
    for victim in asked:
        try:
            victim.child.answer()
        except PagemergeError as error:
            failed.append((victim, f"{victim.name} did not answer to a check: {error}"))
    return failed
