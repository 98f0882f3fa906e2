"""A program whose eight workers each load the same data, as those of a DataLoader do."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

from pagemerge.errors import PagemergeError

from ..loads import said, started
from .base import EXAMPLES, Round, Site, Under

CHECKED = 64
"""Batches of an epoch whose checksum is compared."""


class Trainer:
    """The program, which waits for the next epoch."""

    def __init__(self, process: subprocess.Popen[bytes], right: dict[int, int]) -> None:
        self.roots = [process.pid]
        self._process, self._right, self._rate = process, right, 0.0

    def load(self, seconds: float) -> Round:
        """One epoch of about this length."""
        if not self._rate:
            first = self._epoch(CHECKED)
            self._rate = CHECKED / float(first["seconds"])
        count = max(int(self._rate * seconds), CHECKED)
        told = self._epoch(count)
        return Round(count, float(told["seconds"]), float(told["p99_seconds"]) * 1e3)

    def check(self) -> int:
        """Compare the checksum of an epoch."""
        found = int(self._epoch(CHECKED)["sum"])
        return int(found != self._right.setdefault(CHECKED, found))

    def _epoch(self, batches: int) -> dict[str, float]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(b"%d\n" % batches)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise PagemergeError(f"the loader ended, status {self._process.wait()}")
        told: dict[str, float] = json.loads(line)
        return told


class Loader:
    """A recipe: a program of our own, or one with a DataLoader of PyTorch."""

    def __init__(self, name: str, script: str, *modules: str) -> None:
        self.name, self._script, self._modules = name, script, modules

    def prepare(self, site: Site) -> None:
        """Write the data."""
        site.needs(*self._modules)
        self._site, self._right = site, dict[int, int]()
        site.run("loader/make.py", "data.npy", "16" if site.small else "200")

    @contextlib.contextmanager
    def start(self, under: Under) -> Iterator[Trainer]:
        """Start the program; its workers have loaded the data."""
        script = str(EXAMPLES / "loader" / self._script)
        argv = [*under.prefix, self._site.python, script, str(self._site.folder / "data.npy")]
        with started(argv, env=under.env) as process:
            said(process, b"ready")
            try:
                yield Trainer(process, self._right)
            finally:
                # At the end of its input it ends its workers, which a signal would leave behind.
                assert process.stdin
                process.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20.0)


LOADERS = (
    Loader("loader", "train.py", "numpy"),
    Loader("torch", "torch_train.py", "numpy", "torch"),
)
