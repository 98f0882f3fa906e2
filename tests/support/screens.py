"""A program on a screen: a pseudo terminal of a size, whose output is read and thrown away."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from pagemerge.linux import process

DEADLINE = 60.0
"""Seconds until a program has to have done something."""


class Screen:
    """A program in a terminal; ``output`` is what it has written so far."""

    def __init__(self, argv: Sequence[str], columns: int, lines: int, env: Mapping[str, str]):
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            # The program must not start before its terminal has a size.
            termios.tcsetwinsize(0, (lines, columns))
            os.execvpe(argv[0], list(argv), dict(env))
        self.output = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the program has closed its terminal
            while piece := os.read(self._master, 1 << 16):
                self.output += piece

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the terminal, which the program is told of."""
        termios.tcsetwinsize(self._master, (lines, columns))

    def press(self, keys: str) -> None:
        """Type keys."""
        os.write(self._master, keys.encode())

    def wait_for(self, text: str) -> None:
        """Wait until the program has written a text."""
        end = time.monotonic() + DEADLINE
        while text.encode() not in self.output:
            assert time.monotonic() < end, self.output[-2000:]
            time.sleep(0.02)

    def cpu_seconds(self) -> float:
        """Processor time that the program has taken."""
        return process.stat(self.pid).cpu_seconds

    def ended(self) -> int:
        """Wait until the program ends, and return its exit status."""
        end = time.monotonic() + DEADLINE
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end, "it does not end"
            time.sleep(0.02)

    def close(self) -> None:
        """End the program, if it still runs, and its terminal."""
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        self._reader.join(DEADLINE)
        os.close(self._master)


@contextlib.contextmanager
def screen(
    *words: object,
    columns: int = 80,
    lines: int = 24,
    env: Mapping[str, str] | None = None,
    python: Sequence[str] = ("-m", "pagemerge"),
) -> Iterator[Screen]:
    """Start ``pagemerge`` with these words in a terminal of 256 colors."""
    argv = [sys.executable, *python, *map(str, words)]
    kept = {k: v for k, v in os.environ.items() if k not in ("COLORTERM", "NO_COLOR")}
    opened = Screen(argv, columns, lines, {**kept, "TERM": "xterm-256color", **(env or {})})
    try:
        yield opened
    finally:
        opened.close()


def measure(path: str, seconds: float = 30.0, columns: int = 80, lines: int = 24) -> str:
    """Return what showing a recording at one moment a second takes, as a sentence."""
    with screen("top", "--replay", path, columns=columns, lines=lines) as shown:
        shown.wait_for("Quit")
        started = shown.cpu_seconds()
        time.sleep(3)
        before, written, at = shown.cpu_seconds(), len(shown.output), time.monotonic()
        time.sleep(seconds)
        spent, passed = shown.cpu_seconds() - before, time.monotonic() - at
        wrote = (len(shown.output) - written) / passed
        shown.press("q")
        status = shown.ended()
    return (
        f"{columns}x{lines}: {spent:.2f} s of processor time in {passed:.1f} s "
        f"({spent / passed:.1%} of a core), {wrote:,.0f} bytes a second to the terminal; "
        f"{started:.2f} s to start; exit status {status}"
    )


if __name__ == "__main__":
    print(measure(sys.argv[1], 30.0, *map(int, sys.argv[2:4])))
