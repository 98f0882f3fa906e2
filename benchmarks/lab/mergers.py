"""Who merges the memory of ``frontier.py``: ksmd at several settings, its drivers, or a hub.

Each is a context in which the engine runs already when programs start: what its own start costs is
not part of the measurement.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from tests.support.cgroup import Cgroup
from tests.support.ksm import DEFAULTS, FLAT_OUT, Ksm

from pagemerge.errors import PagemergeError, Unsupported

from . import hub
from .equal_cost import BASE
from .policies import POLICIES, Options, Policy, family_cpu_seconds, settings
from .trace import Sample


@dataclass(frozen=True, slots=True)
class Merger:
    """An engine at work; its ``cpu_seconds`` raise ``PagemergeError`` if it has ended."""

    engine: str
    """What programs are told: user, kernel, or none."""
    env: dict[str, str]
    """For programs whose memory it is to merge."""
    cpu_seconds: Callable[[Sequence[int]], float]
    """Processor seconds of the engine, in part by its agents in processes of these pids. Only
    differences count."""
    observe: Callable[[Sample], None] = lambda _: None
    """Is shown every sample."""
    notes: list[str] = field(default_factory=list)
    """What a reader of its figures has to know."""


Start = Callable[[Cgroup, Ksm | None, int], AbstractContextManager[Merger]]
"""The group of the programs, kernel KSM if it is to be had, and the bytes of the programs."""


@contextlib.contextmanager
def nobody(group: Cgroup, kernel: Ksm | None, size: int) -> Iterator[Merger]:
    """Nobody merges: tells the error of the measurement."""
    yield Merger("none", dict(os.environ), lambda _: 0.0)


def by_hub(**options: float) -> Start:
    """A hub at its defaults but for ``options``, in the group: its memory counts, too."""

    @contextlib.contextmanager
    def start(group: Cgroup, kernel: Ksm | None, size: int) -> Iterator[Merger]:
        with hub.running(group.prefix(), **options) as own:

            def spent(pids: Sequence[int]) -> float:
                if (code := own.process.poll()) is not None:
                    words = own.log.read_text(errors="replace").strip()
                    raise PagemergeError(f"the hub {hub.ending(code)}: {words}")
                return family_cpu_seconds(own.process.pid) + hub.agents_cpu_seconds(pids)

            yield Merger("user", own.environment(), spent)

    return start


def by_ksmd(policy: Policy) -> Start:
    """Ksmd, driven as ``lab.policies`` has it."""

    @contextlib.contextmanager
    def start(group: Cgroup, kernel: Ksm | None, size: int) -> Iterator[Merger]:
        if kernel is None:
            raise Unsupported("kernel KSM is not to be had")
        with policy(kernel, Options(size)) as driver:

            def spent(pids: Sequence[int]) -> float:
                return kernel.cpu_seconds() + driver.cpu_seconds()

            yield Merger("kernel", dict(os.environ), spent, driver.observe, driver.notes)
        kernel.forget()

    return start


THRIFTY = {"huge_price": 0, "longest_pause": 10}
"""Settings of a hub that makes no huge pages, and looks less often while little changes."""

MERGERS: dict[str, Start] = {
    "nobody": nobody,
    BASE: by_ksmd(settings(**DEFAULTS)),
    "ksmd 1,000": by_ksmd(settings(pages_to_scan=1_000, sleep_millisecs=20)),
    "ksmd 5,000": by_ksmd(settings(pages_to_scan=5_000, sleep_millisecs=20)),
    "ksmd flat out": by_ksmd(settings(**FLAT_OUT)),
    "ksmd advisor": by_ksmd(POLICIES["advisor"]),
    "ksmtuned": by_ksmd(POLICIES["ksmtuned"]),
    "governor": by_ksmd(POLICIES["governor"]),
    "hub": by_hub(),
    "hub 20%": by_hub(cpu_percent=20),
    "hub 5%": by_hub(cpu_percent=5),
    "hub 2%": by_hub(cpu_percent=2),
    "hub thrifty": by_hub(**THRIFTY),
    "hub thrifty 1%": by_hub(**THRIFTY, cpu_percent=1),
}
