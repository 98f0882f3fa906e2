"""Nobody, the user engine, or the kernel merges the memory of a group of programs.

Each engine is a context: inside, its hub or its governor runs. Programs are its clients if they
are started with its ``words`` before their command line, in its ``env``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tests.support import ksm
from tests.support.hubs import ALONE

from pagemerge.demo.dialog import end
from pagemerge.errors import PagemergeError
from pagemerge.linux.accounts import cpu_seconds
from pagemerge.linux.knobs import RUN

from . import hub
from .group import Group

WORDS = [sys.executable, "-m", "pagemerge", "run", "--quiet"]


class Engine(Protocol):
    """Who merges."""

    @property
    def words(self) -> Sequence[str]:
        """What goes before the command line of a program."""

    env: dict[str, str]

    def pids(self) -> list[int]:
        """Processes of its own."""

    def cpu_seconds(self, group: Sequence[int]) -> float:
        """Processor time that merging has cost, also by agents inside the processes."""

    def pause(self) -> contextlib.AbstractContextManager[None]:
        """Inside, it does nothing: other programs are measured."""


class Nobody:
    """No engine: the plain program."""

    words = ()

    def __init__(self) -> None:
        self.env = dict(os.environ)

    def pids(self) -> list[int]:
        """None."""
        return []

    def cpu_seconds(self, group: Sequence[int]) -> float:
        """Nothing."""
        return 0.0

    def pause(self) -> contextlib.AbstractContextManager[None]:
        """There is nothing to pause."""
        return contextlib.nullcontext()


class User:
    """A hub at its defaults, and ``pagemerge run --all``."""

    words = (*WORDS, "--all", "--")

    def __init__(self, own: hub.Hub) -> None:
        self.hub, self.env = own, own.environment()

    def pids(self) -> list[int]:
        """The hub."""
        return [self.hub.process.pid]

    def cpu_seconds(self, group: Sequence[int]) -> float:
        """Of the hub and the agents."""
        return self.hub.cpu_seconds() + hub.agents_cpu_seconds(group)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Stop the hub: agents wait for it."""
        self.hub.hold()
        try:
            yield
        finally:
            self.hub.release()


class Kernel:
    """A governor of ksmd at its defaults, and ``pagemerge run --engine kernel``."""

    words = (*WORDS, "--engine", "kernel", "--")

    def __init__(self, kernel: ksm.Ksm, governor: subprocess.Popen[bytes], log: Path) -> None:
        self.kernel, self.governor, self.log = kernel, governor, log
        self.env = dict(os.environ)

    def pids(self) -> list[int]:
        """The governor."""
        return [self.governor.pid]

    def cpu_seconds(self, group: Sequence[int]) -> float:
        """Of ksmd and the governor. Raises ``PagemergeError`` if the governor has ended."""
        if self.governor.poll() is not None:
            raise PagemergeError(f"the governor ended: {self.log.read_text(errors='replace')}")
        return self.kernel.cpu_seconds() + cpu_seconds(self.governor.pid)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Stop the governor, and ksmd."""
        self.governor.send_signal(signal.SIGSTOP)
        running = self.kernel.kernel.knobs().run
        try:
            if running == RUN:
                self.kernel.write("run", ksm.STOP)
            yield
        finally:
            if running == RUN:
                self.kernel.write("run", RUN)
            self.governor.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def plain(group: Group) -> Iterator[Engine]:
    """Nobody merges."""
    yield Nobody()


@contextlib.contextmanager
def user(group: Group) -> Iterator[Engine]:
    """A hub of its own, in the cgroup of the group: the store counts as memory of the group."""
    with hub.running(group.prefix()) as own:
        yield User(own)


@contextlib.contextmanager
def kernel(group: Group) -> Iterator[Engine]:
    """A governor in the cgroup of the group. Raises ``Unsupported`` if there is no KSM to drive."""
    with tempfile.TemporaryDirectory(prefix="pagemerge-bench-") as name, ksm.borrowed() as own:
        folder = Path(name)
        (folder / "config.toml").write_text(ALONE)
        argv = [*group.prefix(), sys.executable, "-m", "pagemerge", "daemon"]
        argv += ["--engine", "kernel", "--verbose", "--config", str(folder / "config.toml")]
        with (folder / "log").open("wb") as log:
            governor = subprocess.Popen(argv, stdout=log, stderr=log, process_group=0)
        try:
            yield Kernel(own, governor, folder / "log")
        finally:
            governor.terminate()
            end(governor, 30.0)


ENGINES = {"plain": plain, "all": user, "kernel": kernel}
