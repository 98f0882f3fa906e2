"""A program in a terminal of its own, which can be closed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pagemerge.demo.dialog import end


class Terminal:
    """A pseudo terminal (pty(7)) that ``process`` was started in, as the leader of its session."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None) -> None:
        self._master, slave = os.openpty()
        # The tests may run under nohup(1).
        before = ["setsid", "--ctty", "env", "--default-signal=HUP"]
        try:
            self.process = subprocess.Popen(
                [*before, *argv], stdin=slave, stdout=slave, stderr=slave, env=env
            )
        finally:
            os.close(slave)

    def close(self) -> None:
        """The kernel sends SIGHUP; all that is written to it from now on is an error."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


@contextmanager
def terminal(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """Start a program in a terminal; at the end both are gone."""
    opened = Terminal(argv, env)
    try:
        yield opened
    finally:
        opened.process.terminate()
        end(opened.process)
        opened.close()
