"""An executor bare and one under the agent, and what each says of the same program."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.differential.program import Program, encode, unmarked
from tests.differential.stated import IGNORED_FLAGS

HERE = Path(__file__).parent
START_PATIENCE = 40.0
"""Seconds until an executor is there, and merged for the first time, on a busy host."""
STEP_PATIENCE = 8.0
"""Seconds that one step may take; a child has half of it."""


def build(folder: Path) -> Path:
    """The executor, compiled; ``FileNotFoundError`` without a compiler."""
    made = folder / "executor"
    sources = sorted(str(it) for it in (HERE / "executor").glob("*.c"))
    # Clobbered: what a fault may leave undefined is read only where no fault was.
    strict = ["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-clobbered", "-pthread"]
    subprocess.run(["cc", *strict, "-o", str(made), *sources], check=True)
    return made


@dataclass
class Said:
    """All that an executor said of one program, and how it ended (None: in order)."""

    lines: list[str] = field(default_factory=list)
    ended: str | None = None
    merged: int = 0
    """Pages that came to be mapped from slabs."""


class Executor:
    """One process; it is started anew when it died or hung, or when memory was sealed."""

    def __init__(self, binary: Path, env: dict[str, str] | None, quiet_ms: int) -> None:
        self._argv = [str(binary), str(quiet_ms), " ".join(IGNORED_FLAGS)]
        self._env = env
        self.process: subprocess.Popen[bytes] | None = None
        self.history: list[Program] = []
        """Programs since the start."""
        self.current = Said()
        self._rest = b""
        self._heard = 0.0

    @property
    def descriptor(self) -> int:
        """Where it talks."""
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def start(self) -> None:
        """A fresh process."""
        self.stop()
        self.process = subprocess.Popen(
            self._argv,
            env={**os.environ, **(self._env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self.history, self._rest = [], b""
        said = self._line(START_PATIENCE) or "nothing"
        assert said.startswith("ready"), f"an executor does not start: {said}{self.complaint()}"

    def stop(self) -> None:
        """End it, however it is."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.process = None

    def complaint(self) -> str:
        """The end of what it wrote to its stderr; only once it has ended."""
        assert self.process is not None
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        return ((self.process.stderr.read() or b"")[-300:]).decode(errors="backslashreplace")

    def begin(self, program: Program) -> None:
        """Have it carry out a program; ``hear`` collects what it says."""
        if self.process is None:
            self.start()
        assert self.process is not None
        assert self.process.stdin is not None
        self.current, self._heard = Said(), time.monotonic()
        self.history.append(program)
        with contextlib.suppress(BrokenPipeError):  # `hear` tells how it ended
            self.process.stdin.write(encode(program))

    def hear(self, timeout: float = 0.0) -> bool:
        """Take what is there; True once the program is over, in whatever way."""
        try:
            while (line := self._line(timeout)) is not None:
                self._heard = time.monotonic()
                if line.startswith("done "):
                    self.current.merged = int(line[5:])
                    return True
                self.current.lines.append(line)
        except EOFError:
            self._lay_down("died")
            return True
        if time.monotonic() > self._heard + STEP_PATIENCE:
            self._lay_down("hung")
            return True
        return False

    def run(self, program: Program) -> Said:
        """A whole program."""
        self.begin(program)
        while not self.hear(0.05):
            pass
        return self.current

    def _lay_down(self, how: str) -> None:
        assert self.process is not None
        if how == "died":
            status = self.process.wait()
            how = f"died of {-status}" if status < 0 else f"exited with {status}"
        else:
            how += _where(self.process.pid)
            self.process.kill()
            self.process.wait()
        self.current.ended = f"{how} {self.complaint().strip()}".strip()
        self.stop()

    def _line(self, timeout: float) -> str | None:
        """The next line; None if there is none in time. Raises ``EOFError``."""
        while b"\n" not in self._rest:
            if not select.select([self.descriptor], [], [], timeout)[0]:
                return None
            data = os.read(self.descriptor, 1 << 16)
            if not data:
                raise EOFError
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="backslashreplace").rstrip()


def _where(pid: int) -> str:
    """What a process that hangs waits for."""
    try:
        return " in " + Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""


WARM = (
    "mmap p0 n8 rw PRIVATE|ANON|FIXED -1 0",
    "fill p0 n8 97 0",
    "madvise p0 n8 MERGEABLE",
    "settle",
)


class Pair:
    """The two, on the same programs; ``env`` is the merged one's."""

    def __init__(self, binary: Path, env: dict[str, str], quiet_ms: int) -> None:
        self._warm = unmarked(WARM) if MERGES_ALL in env else WARM
        self.bare = Executor(binary, None, quiet_ms)
        self.merged = Executor(binary, env, quiet_ms)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End both."""
        self.bare.stop()
        self.merged.stop()

    def warm(self) -> None:
        """Have the agent join the hub, so that the first program is merged like the others."""
        if self.merged.process is not None:
            return
        self.merged.start()
        deadline = time.monotonic() + START_PATIENCE
        while not self.merged.run(self._warm).merged:
            assert time.monotonic() < deadline, "an executor is never merged"
        self.merged.history.clear()

    def begin(self, program: Program) -> None:
        """Have both carry it out."""
        self.warm()
        self.bare.begin(program)
        self.merged.begin(program)

    def run(self, program: Program, fresh: bool = False) -> tuple[Said, Said]:
        """What both say of it."""
        if fresh:
            self.stop()
        self.begin(program)
        done = [False, False]
        while not all(done):
            done = [
                it or executor.hear(0.002)
                for it, executor in zip(done, (self.bare, self.merged), strict=True)
            ]
        return self.bare.current, self.merged.current


MERGES_ALL = "PAGEMERGE_FROM"
"""Is in the environment of programs whose memory is merged without being marked."""


def agent_environment(
    socket: Path, barrier: str, pagemerge: Sequence[str], *, everything: bool = False
) -> dict[str, str]:
    """What ``pagemerge run --barrier`` gives a program, as its environment.

    ``everything``: with ``--all``, for every page, as soon as it is mapped.
    """
    more = ["--all", "--from", "4K"] if everything else []
    argv = [*pagemerge, "run", "--barrier", barrier, "--socket", str(socket), *more]
    told = subprocess.run([*argv, "--", "env", "-0"], check=True, capture_output=True).stdout
    pairs = [row.partition("=") for row in told.decode().split("\0") if row]
    names = {name: value for name, _, value in pairs}
    env = {name: it for name, it in names.items() if name.startswith(("PAGEMERGE_", "LD_PRELOAD"))}
    return {**env, "PAGEMERGE_EAGER": "1"} if everything else env
