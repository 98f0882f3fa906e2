"""What a recipe is, and what recipes share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pagemerge.errors import Unsupported

from ..loads import family

EXAMPLES = Path(__file__).parents[3] / "examples"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a recipe works, and with what."""

    folder: Path
    """For its data. All users may enter it."""
    small: bool = False
    """Little data, for a quick test."""
    python: str = sys.executable
    """The Python that the examples run with: it has the packages that they need."""

    def needs(self, *modules: str) -> None:
        """Raise ``Unsupported`` if the Python of the examples lacks one of these packages."""
        for name in modules:
            argv = [self.python, "-c", f"import {name}"]
            if subprocess.run(argv, capture_output=True, check=False).returncode:
                raise Unsupported(
                    f"{self.python} has no {name}: pip install {name}, or name another "
                    "Python with --python"
                )

    def run(self, *words: str, **options: object) -> None:
        """Run a script of the examples to its end, in the folder. Raises ``CalledProcessError``."""
        argv = [self.python, str(EXAMPLES / words[0]), *words[1:]]
        subprocess.run(argv, cwd=self.folder, check=True, **options)  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True)
class Under:
    """How the programs of a group are started: what an engine and a cgroup ask for."""

    prefix: Sequence[str] = ()
    """What goes before each command line."""
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True, slots=True)
class Round:
    """What a group did in one round."""

    requests: int
    seconds: float
    p99_ms: float
    """99 of 100 requests took at most so long."""
    wrong: int = 0
    """Requests that failed, or whose answer was wrong."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


class Service(Protocol):
    """A group of processes that runs."""

    @property
    def roots(self) -> Sequence[int]:
        """The processes that were started; the group is these and what they have started."""

    def load(self, seconds: float) -> Round:
        """Have the group work for about this long."""

    def check(self) -> int:
        """Count what is wrong in the data that the processes hold."""


class Recipe(Protocol):
    """A service and its data. The first group that is started must be a plain one.

    Answers of that group are what all groups must answer.
    """

    name: str

    def prepare(self, site: Site) -> None:
        """Make the data. Raises ``Unsupported`` if this host lacks a program that is needed."""

    def start(self, under: Under) -> AbstractContextManager[Service]:
        """Start a group; inside, all of it has loaded its data and answers."""


def group_of(service: Service) -> list[int]:
    """All processes of a group."""
    return family(service.roots)
