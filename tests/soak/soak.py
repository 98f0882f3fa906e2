"""The soak itself: carries out the plan, looks at everybody every second, keeps the accounts."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pagemerge.errors import PagemergeError
from pagemerge.hub.model import Status
from tests.soak import audit, plan
from tests.soak.keeper import Keeper, growth, thirds
from tests.soak.population import Ledger, Victim, build, check
from tests.support.hubs import PATIENCE

SHARED_SLACK, UNOWNED_SLACK = 64 << 20, 512 << 20
"""Bytes by which the host's Shmem, and its memory in use that is no process's, may differ from the
start when all have left: others use the host, too."""

MOST_FAULTS = 60
"""Told with all details."""


@dataclass(slots=True)
class Result:
    """What a soak has seen."""

    seed: int
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """Violations, in words; none: all is well."""
    hub_memory: tuple[int, int] | None = None
    """Bytes of the last hub in the first and the last third of its life; none: too short."""
    before: audit.Host | None = None
    after: audit.Host | None = None


class Soak:
    """A context: nothing that it started is left behind, whatever happens.

    ``inject`` is what the soak's own test wants to see reported: ``byte``, a victim's page is
    corrupted; ``stay``, a victim does not leave with the others.
    """

    def __init__(self, say: Callable[[str], None], inject: str = "", patience: float = PATIENCE):
        self.say, self.inject, self.patience = say, inject, patience
        self.victims: dict[int, Victim] = {}
        self.ledger = Ledger()
        self.faults: list[str] = []
        self.counts = dict.fromkeys(
            (
                *(
                    "started",
                    "machines",
                    "unmarked",
                    "killed",
                    "exited",
                    "left",
                    "stopped",
                    "hub_stops",
                    "checks",
                    "ebbs",
                ),
                *("leaked_processes", "leaked_descriptors", "leaked_slots"),
            ),
            0,
        )
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._looked = 0.0

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="pagemerge-soak-")
        self.folder = Path(self._folder.name)
        self.built = build(self.folder)
        self.keeper = Keeper(self.folder / "hub")
        audit.adopt_orphans()
        return self

    def __exit__(self, *_: object) -> None:
        for victim in self.victims.values():
            victim.kill()
        self.keeper.kill()
        for pid in audit.descendants():  # orphans of the dead: they were given to us
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._folder.cleanup()

    def run(self, seed: int, seconds: float, barriers: Sequence[str]) -> Result:
        """Live through the plan of a seed."""
        self.result = Result(seed, seconds, before=audit.host())
        self.begun, self.end = time.monotonic(), time.monotonic() + seconds
        self.keeper.start(0)
        self._own = audit.descriptors(self.keeper.pid)[1]
        if self.inject == "byte":
            self._at(2.0, self._corrupt)
        guests = self.built.machine is not None
        for event in plan.plan(seed, seconds, barriers, guests=guests):
            self._until(self.begun + event.at)
            self._do(event)
        self._finish()
        return self.result

    def _do(self, event: plan.Event) -> None:
        """Carry out one event of the plan; of a victim that has gone meanwhile, nothing."""
        match event:
            case plan.Start():
                self._start(event)
            case plan.Victim(what=what) if event.serial in self.victims:
                getattr(self, f"_{what}")(self.victims[event.serial], event.seconds)
            case plan.Hub(what="kill"):
                self.keeper.kill()
                self._at(event.seconds, lambda: self._new_hub(event.settings))
            case plan.Hub():
                self._stop_hub(event.seconds)
            case plan.All(what="check"):
                self._check()
            case plan.All():
                self._ebb()

    # What is done to victims and hubs.

    def _start(self, event: plan.Start) -> None:
        self.counts["started"] += 1
        self.counts["machines"] += event.guest
        self.counts["unmarked"] += event.unmarked
        try:
            victim = Victim(event, self.folder, self.built, self.keeper.socket)
        except PagemergeError as error:
            self._fault(f"victim {event.serial} ({event.barrier}) did not get ready: {error}")
        else:
            self.victims[event.serial] = victim

    def _kill(self, victim: Victim, _: float) -> None:
        victim.kill()
        self._gone(victim, "killed")

    def _exit(self, victim: Victim, _: float) -> None:
        self._resume(victim)
        try:
            victim.exit()
        except PagemergeError as error:
            self._fault(f"{victim.name} was told to exit: {error}")
        self._gone(victim, "exited")

    def _leave(self, victim: Victim, _: float) -> None:
        self._resume(victim)
        self._check([victim])
        if fault := victim.leave():
            self._fault(fault)
        self._gone(victim, "left")

    def _stop(self, victim: Victim, seconds: float) -> None:
        if not victim.stopped:
            self.counts["stopped"] += 1
            victim.stop()
            self._at(seconds, lambda: self._resume(victim))

    def _resume(self, victim: Victim) -> None:
        if victim.stopped and victim.start.serial in self.victims and (fault := victim.resume()):
            self._fault(fault)

    def _gone(self, victim: Victim, how: str) -> None:
        self.counts[how] += 1
        self.ledger.close(self.victims.pop(victim.start.serial))

    def _new_hub(self, settings: int) -> None:
        if self.keeper.process is None:
            self.keeper.start(settings)

    def _stop_hub(self, seconds: float) -> None:
        if self.keeper.process is not None and not self.keeper.stopped:
            self.counts["hub_stops"] += 1
            self.keeper.stop()
            self._at(seconds, self.keeper.resume)

    def _corrupt(self) -> None:
        next(iter(self.victims.values())).child.ask("corrupt")

    # What must hold.

    def _check(self, victims: Sequence[Victim] | None = None) -> None:
        asked = [it for it in victims or self.victims.values() if not it.stopped]
        self.counts["checks"] += len(asked)
        for victim, fault in check(asked):
            self._fault(fault)
            victim.kill()
            self._gone(victim, "killed")

    def _look(self) -> Status | None:
        """At everybody, once; what is wrong goes into the accounts."""
        self._looked = time.monotonic()
        audit.reap({victim.pid for victim in self.victims.values()} | {self.keeper.pid})
        for victim in list(self.victims.values()):
            if fault := victim.look():
                self._fault(fault)
                victim.kill()
                self._gone(victim, "killed")
        status = self.keeper.look()
        self.faults += self.keeper.faults
        self.keeper.faults.clear()
        return status

    def _ebb(self) -> None:
        """All leave, and nothing of them may be left."""
        self.counts["ebbs"] += 1
        for victim in self.victims.values():
            self._resume(victim)
        if self.keeper.stopped:
            self.keeper.resume()
        self._new_hub(0)
        self._check()
        leaving = list(self.victims.values())
        for victim in leaving[1:] if self.inject == "stay" else leaving:
            if fault := victim.leave():
                self._fault(fault)
            self._gone(victim, "left")
        deadline = time.monotonic() + self.patience
        while left := self._left():
            if time.monotonic() > deadline:
                for key, fault in left:
                    self.counts[key] += 1
                    self._fault(f"after all victims had left: {fault}")
                return
            time.sleep(0.1)

    def _left(self) -> list[tuple[str, str]]:
        """What is there though all have left: what kind of leak it is, and in words."""
        status = self._look()
        if status is None:
            return [("leaked_slots", "no hub answers")]
        found = []
        if status.clients:
            pids = ", ".join(str(client.pid) for client in status.clients)
            found.append(("leaked_slots", f"the hub still counts clients: {pids}"))
        if status.store_bytes:
            found.append(("leaked_slots", f"the store holds {status.store_bytes} bytes"))
        for pid, name in audit.descendants().items():
            if mappings := audit.slab_mappings(pid):
                found.append(("leaked_slots", f"{name} ({pid}) maps {mappings} pieces of slabs"))
            if pid != self.keeper.pid:
                found.append(("leaked_processes", f"process {pid} ({name}) still runs"))
        slabs, others = audit.descriptors(self.keeper.pid)
        if slabs:
            found.append(("leaked_descriptors", f"the hub still holds {slabs} slabs open"))
        if others > self._own + 24:
            found.append(("leaked_descriptors", f"the hub has {others} descriptors open"))
        return found

    def _finish(self) -> None:
        """The last ebb is over: the hub ends, and the host has its memory back."""
        self.result.hub_memory = thirds(self.keeper.memory)
        if fault := growth(self.keeper.memory):
            self._fault(fault)
        self.keeper.close()
        self.faults += self.keeper.faults + self.ledger.faults
        deadline = time.monotonic() + self.patience
        while left := self._left_on_host():
            if time.monotonic() > deadline:
                self.faults += left
                break
            time.sleep(0.2)
            audit.reap(set())
        merges, separations = self.keeper.work()
        self.result.counts = {
            **self.counts,
            **self.ledger.total(self.victims.values()),
            "hubs_started": self.keeper.started,
            "hubs_killed": self.keeper.killed,
            "merges": merges,
            "separations": separations,
            "most_hub_descriptors": self.keeper.descriptors,
        }
        self.result.faults = self.faults[:MOST_FAULTS]
        if more := self.faults[MOST_FAULTS:]:
            self.result.faults.append(f"and {len(more)} more")
        self.result.seconds = time.monotonic() - self.begun

    def _left_on_host(self) -> list[str]:
        before, now = self.result.before, audit.host()
        assert before is not None
        self.result.after = now
        left = [f"process {pid} ({name}) is left" for pid, name in audit.descendants().items()]
        if (more := now.shared - before.shared) > SHARED_SLACK:
            left.append(f"shared memory (Shmem) is {more >> 20} MiB more than before")
        if (more := now.unowned - before.unowned) > UNOWNED_SLACK:
            left.append(f"{more >> 20} MiB are in use that were not before, and are no process's")
        return left

    # Time.

    def _at(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._order), work))

    def _until(self, when: float) -> None:
        """Wait, with whatever is due before then, and a look at everybody once a second."""
        while True:
            now = time.monotonic()
            if self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            elif now - self._looked >= 1.0:
                self._look()
                self._tell()
            elif now >= when:
                return
            else:
                due = self._later[0][0] if self._later else when
                time.sleep(max(0.0, min(when, due, self._looked + 1.0) - now))

    def _tell(self) -> None:
        total = self.ledger.total(self.victims.values())
        merges, separations = self.keeper.work()
        left = max(0, round(self.end - time.monotonic()))
        self.say(
            f"{left // 60}:{left % 60:02} left, {len(self.victims)} victims, {merges} merges, "
            f"{separations} separations, {self.counts['killed']} victims and {self.keeper.killed} "
            f"hubs killed, {total['checked']} pages checked, {total['wrong']} wrong, "
            f"{len(self.faults)} faults"
        )

    def _fault(self, what: str) -> None:
        self.faults.append(what)
        self.say(f"FAULT: {what}")
