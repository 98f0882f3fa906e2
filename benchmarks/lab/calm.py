"""Who merges while a service is measured: nobody, ksmd by several drivers, or a hub.

Each is a context that begins with processes whose memory is filled and not merged, and that yields
how to begin, and how to tell whether all is merged.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.support.hubs import ALONE
from tests.support.ksm import Ksm

from pagemerge.demo.dialog import Child
from pagemerge.errors import Unsupported

from . import hub, serving
from .policies import POLICIES, Options
from .scene import GOOD, Scene, anonymous_pages, fill, workers

PROGRAM = ("-m", serving.__name__)
LATENCY = 10.0
"""``latency_percent`` of the gentle ones."""


@dataclass(frozen=True, slots=True)
class Merging:
    """An engine that is ready to begin."""

    children: list[Child]
    begin: Callable[[], None]
    saved_pages: Callable[[], int]


Side = Callable[[Scene, Ksm | None], AbstractContextManager[Merging]]


def nobody(scene: Scene, kernel: Ksm | None) -> AbstractContextManager[Merging]:
    """Nobody merges."""
    return _without(scene)


@contextlib.contextmanager
def _without(scene: Scene) -> Iterator[Merging]:
    with workers(scene, "none", dict(os.environ), PROGRAM) as children:
        fill(children)
        yield Merging(children, lambda: None, lambda: 0)


def by_hub(**settings: float) -> Side:
    """A hub with these settings, at its defaults otherwise."""

    @contextlib.contextmanager
    def side(scene: Scene, kernel: Ksm | None) -> Iterator[Merging]:
        with (
            hub.running((), **settings) as own,
            workers(scene, "user", own.environment(), PROGRAM) as children,
        ):
            own.hold()
            fill(children)
            pids = [child.pid for child in children]
            before = anonymous_pages(pids)
            yield Merging(children, own.release, lambda: before - anonymous_pages(pids))
            if own.held:
                own.release()

    return side


def by_ksmd(policy: str, config: str = "") -> Side:
    """Ksmd, driven as ``lab.policies`` has it; ``config``: the ``[kernel]`` table of a governor."""

    @contextlib.contextmanager
    def side(scene: Scene, kernel: Ksm | None) -> Iterator[Merging]:
        if kernel is None:
            raise Unsupported("kernel KSM is not to be had")
        kernel.write("run", 0)
        with (
            workers(scene, "kernel", dict(os.environ), PROGRAM) as children,
            tempfile.TemporaryDirectory(prefix="pagemerge-bench-") as folder,
            contextlib.ExitStack() as stack,
        ):
            before = kernel.sharing
            options = Options(scene.processes * scene.pages * 4096)
            if config:
                file = Path(folder) / "config.toml"
                file.write_text(config + ALONE)
                options = Options(options.workload_bytes, config=file)

            def begin() -> None:
                stack.enter_context(POLICIES[policy](kernel, options))

            fill(children)
            yield Merging(children, begin, lambda: kernel.sharing - before)
        kernel.forget()

    return side


SIDES: dict[str, Side] = {
    "nobody": nobody,
    "ksmd": by_ksmd("defaults"),
    "ksmd flat out": by_ksmd("flat-out"),
    "ksmd advisor": by_ksmd("advisor"),
    "governor": by_ksmd("governor"),
    "governor, gentle": by_ksmd("governor", f"[kernel]\nlatency_percent = {LATENCY:g}\n"),
    "hub": by_hub(),
    "hub, gentle": by_hub(latency_percent=LATENCY),
}


def is_done(scene: Scene, merging: Merging) -> bool:
    """True if all that can be saved is saved."""
    return merging.saved_pages() >= GOOD * scene.savings
