"""A run: a hub, bystanders, and hostile processes of several users, until enough has been said."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from pagemerge.demo.dialog import Child
from pagemerge.hub import admission
from pagemerge.model import PAGE_SIZE
from tests.fuzz import waiting
from tests.support.building import VICTIMS
from tests.support.commands import NOBODY
from tests.support.hubs import Hub

ROOT = Path(__file__).parents[2]
CONFIG = "[hub]\nlooks = 1\nuser_share = 0.02\n"
"""Merging at first sight; and a user's share of the store that can be filled within the run."""

OTHER, CALM = NOBODY - 1, NOBODY - 2
"""Another hostile user, and one who has nothing hostile."""


@dataclass
class Result:
    """All that a run came to."""

    seed: int
    seconds: float = 0.0
    messages: int = 0
    connections: int = 0
    acts: Counter[str] = field(default_factory=Counter)
    waits: dict[str, tuple[waiting.Waits, waiting.Waits]] = field(default_factory=dict)
    """Bystander -> in quiet, and beside hostile processes."""
    memory: int = 0
    """The most that the hub had, its slabs included, in bytes."""
    bound: int = 0
    """What it might have had."""
    descriptors: tuple[int, int] = (0, 0)
    threads: tuple[int, int] = (0, 0)
    skipped: str = ""
    faults: list[str] = field(default_factory=list)


def open_files(pid: int) -> int:
    """How many descriptors a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    """How many threads it has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def resident(pid: int) -> int:
    """Its memory, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_SIZE


def bound(quiet: int, users: int) -> int:
    """Bytes that a hub may have beside so many hostile users: docs/hazards.md says the same."""
    return quiet + users * admission.most_memory(0.02)


class Campaign:
    """One run, as a context."""

    def __init__(self, folder: Path, seed: int, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self.result = Result(seed)
        self._running = ExitStack()

    def __enter__(self) -> Campaign:
        try:
            self._start()
        except BaseException:
            self._running.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.__exit__(kind, error, trace)

    def _start(self) -> None:
        self.hub = self._running.enter_context(Hub(self._folder / "hub", CONFIG))
        self._folder.chmod(0o711)
        root = os.geteuid() == 0
        hostile = [NOBODY, NOBODY, OTHER, 0] if root else [os.geteuid()] * 3
        self.users = len(set(hostile))
        honest = {
            "of a calm user": self._member(CALM if root else 0),
            "of a hostile user": self._member(NOBODY if root else 0, PAGEMERGE_DOMAIN="apart"),
            "in a hostile domain": self._member(NOBODY if root else 0),
        }
        self.members = list(honest.values())
        self._names = list(honest)
        self.hostile = [
            self._child(
                *["-m", "tests.fuzz.hostile", str(self.hub.socket)],
                *map(str, (uid, number, self.hub.pid)),
            )
            for number, uid in enumerate(hostile, 10 * self.result.seed)
        ]
        if not self.hostile[0].ready["endless"]:
            self.result.skipped = f"no file that waits for ever: {self.hostile[0].ready['why']}"
        for member in self.members:
            member.ask("fill", pages=1024, seed=1)

    def _member(self, uid: int, **env: str) -> Child:
        words = [str(uid)] if uid and os.geteuid() == 0 else []
        return self._child(str(VICTIMS / "member.py"), *words, **env)

    def _child(self, *words: str, **env: str) -> Child:
        whole = {**os.environ, **self.hub.env, **env}
        with contextlib.chdir(ROOT):
            return self._running.enter_context(Child([sys.executable, *words], env=whole))

    def run(
        self, messages: int, phase: float, only: str = "", floor: float = waiting.FLOOR
    ) -> Result:
        """Measure in quiet, torment in phases of so many seconds, and see that all is over."""
        result, began = self.result, time.monotonic()
        self._phase("compute", 1.0, "")
        quiet = [self._phase("compute", phase, "")]
        before = open_files(self.hub.pid), threads(self.hub.pid)
        result.bound = bound(self._memory(), self.users)
        beside = []
        while result.messages < messages:
            beside.append(self._phase("torment", phase, only))
            self._say(
                f"{result.messages:,} messages; "
                + "; ".join(it.told() for it in beside[-1])
                + f"; hub {self._memory() >> 20} MiB"
            )
            if len(quiet) * 10 < len(beside):
                for child in self.hostile:
                    child.ask("rest")
                quiet.append(self._phase("compute", phase, ""))
        for child in self.hostile:
            child.ask("rest")
        result.seconds = time.monotonic() - began
        for name, one, other in zip(
            self._names, zip(*quiet, strict=True), zip(*beside, strict=True), strict=True
        ):
            result.waits[name] = waiting.together(one), waiting.together(other)
            result.faults += waiting.faults(f"the bystander {name}", *result.waits[name], floor)
        self._check_end(before)
        return result

    def _phase(self, verb: str, seconds: float, only: str) -> list[waiting.Waits]:
        more = {"only": only} if verb == "torment" else {}
        waiting.ask(self.members, seconds)
        for child in self.hostile:
            child.question(verb, seconds=seconds, **more)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.result.memory = max(self.result.memory, self._memory())
            self.hub.process.poll()
            time.sleep(min(0.2, max(end - time.monotonic(), 0)))
        for child in self.hostile:
            said = child.answer()
            self.result.messages += said["messages"]
            self.result.connections += said["connections"]
            self.result.acts.update(said["acts"])
        found = waiting.answers(self.members)
        self.hub.assert_alive()
        return found

    def _memory(self) -> int:
        """Of the hub, with the memory files that it holds open and nobody else need map."""
        slabs = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in Path(f"/proc/{self.hub.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if "pagemerge-slab" in os.readlink(entry):  # noqa: PTH115
                        slabs += entry.stat().st_blocks * 512
        return resident(self.hub.pid) + slabs

    def _check_end(self, before: tuple[int, int]) -> None:
        """All that hostile processes took is given back, and honest members go on."""
        result, hub = self.result, self.hub
        for child in self.hostile:
            child.close()
        hub.until(lambda: len(hub.status().clients) == len(self.members), "see them leave")
        hub.until(lambda: open_files(hub.pid) <= before[0] + 8, "close what strangers sent")
        hub.until(lambda: threads(hub.pid) <= before[1] + 4, "end its readers")
        result.descriptors = before[0], open_files(hub.pid)
        result.threads = before[1], threads(hub.pid)
        if result.memory > result.bound:
            result.faults.append(
                f"the hub had {result.memory >> 20} MiB, and may have {result.bound >> 20}"
            )
        for member in self.members:
            if member.ask("check") != {"wrong": 0}:
                result.faults.append(f"process {member.pid}: wrong bytes")
        log = hub.log()
        if not all(line.isprintable() for line in log.split("\n")):
            result.faults.append("the hub's log is not plain text")
        for word in (
            "Traceback",
            "a cycle of",
            "a request failed",
            "disconnecting process",
            "hub failed",
        ):
            for line in log.split("\n"):
                if word in line:
                    result.faults.append(f"the hub says: {line}")
                    break


def room_for_descriptors() -> None:
    """As many descriptors as we may have, for us and our children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
