"""Writes the rules of this node's pods to a file again and again; a failure leaves it as it is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pagemerge.config import Configuration
from pagemerge.errors import PagemergeError, UsageError
from pagemerge.kubernetes.pods import Listed, Pod
from pagemerge.kubernetes.rules import configuration, refusal
from pagemerge.linux.text import plain
from pagemerge.settings import file
from pagemerge.settings.check import check

log = logging.getLogger("pagemerge.pods")


@dataclass(slots=True)
class Mirror:
    """The file, and what it is made of."""

    ask: Callable[[], Listed]
    """Lists the pods of this node; raises ``PagemergeError``."""
    base: Path | None
    """A configuration that the rules are added to."""
    target: Path
    namespaces: frozenset[str] | None
    """Those whose pods may opt in; None: all."""
    root: Sequence[str] = ()
    """The parts of the kubelet's ``--cgroup-root``."""
    more: Callable[[], None] = lambda: None
    """Other work of each step; raises ``PagemergeError``."""
    _pods: tuple[Pod, ...] | None = None
    _told: dict[str, str] = field(default_factory=dict)
    """What was said last, for each kind of work."""
    _refused: frozenset[Pod] = frozenset()

    def step(self) -> bool:
        """List the pods, and write the file if anything has changed. Returns false after a failure,
        which is logged once; the file is as before then."""
        done = self._try("pods", self._list)
        if self._pods is not None:
            done &= self._try("rules", self._write)
        return done & self._try("more", self.more)

    def _list(self) -> None:
        found = self.ask()
        self._pods = found.pods
        refused = {pod: why for pod in found.pods if (why := refusal(pod, self.namespaces))}
        for pod in sorted(refused.keys() - self._refused):
            log.warning("%s gets no rule: %s", _name(pod), refused[pod])
        self._refused = frozenset(refused)
        if found.unreadable:
            told = f"{found.unreadable} entries of the list of pods cannot be read: left out"
            if self._told.get("entries") != told:
                log.warning("%s", told)
            self._told["entries"] = told

    def _write(self) -> None:
        data = file.read(self.base) if self.base else b""
        if problem := _problem(data):
            raise UsageError(f"{self.base}:{problem}", path=str(self.base))
        text = configuration(data.decode(), self._pods or (), self.namespaces, self.root)
        if len(text.encode()) > file.MOST_BYTES:
            told = f"the rules of all pods have more than {file.MOST_BYTES >> 10} KiB"
            raise PagemergeError(f"{told}: allow fewer namespaces to opt in")
        if problem := _problem(text.encode()):
            raise UsageError(f"{self.base} with the rules of pods: line {problem}")
        with contextlib.suppress(UsageError):
            if file.read(self.target) == text.encode():
                return
        file.write(self.target, text, force=True)
        count = text.count("[[rule]]")
        log.info("%s has %d rules now", plain(str(self.target)), count)

    def _try(self, work: str, do: Callable[[], None]) -> bool:
        try:
            do()
        except PagemergeError as error:
            told = plain(str(error))
            if self._told.get(work) != told:
                log.error("the rules of pods stay as they are: %s", told)
            self._told[work] = told
            return False
        if self._told.pop(work, ""):
            log.info("that is over: %s", work)
        return True


def _problem(data: bytes) -> str:
    """Return the first thing that is wrong with a configuration, with its line; empty if none."""
    found = check(data, Configuration)
    return f"{found.problems[0].line}: {found.problems[0].message}" if found.problems else ""


def _name(pod: Pod) -> str:
    return plain(f"pod {pod.namespace}/{pod.name}", 200)
