"""Opts processes in to kernel KSM or out of it, and tells for each what prevents it, or what was
done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pagemerge import _core
from pagemerge.errors import PagemergeError, Unsupported, UsageError
from pagemerge.find.eligible import eligible
from pagemerge.find.engine import merged_by_us
from pagemerge.find.process import Process, everyone, explain, named
from pagemerge.ksmd.attach import Outcome, attach, listed
from pagemerge.linux.aside import readers
from pagemerge.linux.ksm import Ksm, mergeable, process_ksm
from pagemerge.linux.maps import mappings

if TYPE_CHECKING:  # numpy takes longer to import than all of this
    from pagemerge.find.look import Progress
    from pagemerge.ksmd.model import Selection

Ranges = tuple[tuple[int, int], ...]
Action = Callable[[int, str, Callable[[], Ranges]], Outcome]


@dataclass(frozen=True, slots=True)
class Target:
    """A process, with the obstacle to opting it in or out, or with what was done."""

    process: Process
    ranges: Ranges = ()
    """Ranges of it that could be merged when it was looked at."""
    error: str = ""
    outcome: Outcome | None = None
    remark: str = ""
    """An additional remark for the user."""
    merged_bytes: int | None = None
    """Bytes of it that ksmd has merged; None if not asked for, or if the kernel does not tell."""

    @property
    def eligible_bytes(self) -> int:
        """Bytes of it that can be merged."""
        return sum(end - start for start, end in self.ranges)


def ready(words: Iterable[str]) -> tuple[Ksm, list[Process]]:
    """Return kernel KSM, and the processes that ``words`` name.

    Raises ``Unsupported`` if there is no kernel KSM, or this user may not use it.
    """
    ksm = Ksm()
    if reason := ksm.lack():  # the user engine cannot reach a program that already runs
        raise Unsupported(reason)
    return ksm, named(words)


def refuse_several_users(processes: Iterable[Process], merged: Mapping[int, list[int]]) -> None:
    """Raise ``UsageError`` if different users' memory would be merged with each other.

    ``merged``: the processes that kernel KSM already has, as ``users_merged`` returns them.
    """
    users = {process.uid for process in processes}
    others = {uid: pids for uid, pids in merged.items() if uid not in users}
    if len(users) + len(others) <= 1:
        return
    who = f"they belong to {', '.join(f'uid {uid}' for uid in sorted(users))}"
    if others:
        who = f"kernel KSM already has processes of {listed(others)}"
    raise UsageError(
        f"{who}, and kernel KSM is one trust domain: each could tell by timing which "
        "pages the others have. --across-users overrides this"
    )


def examine(process: Process) -> Target:
    """Find what can be merged of a process, or what prevents it; does nothing to the process."""
    try:
        return readers.call(process.pid, _examine, process)
    except PagemergeError as error:
        return Target(process, error=explain(error, process))


def _examine(process: Process) -> Target:
    try:
        _core.inject_check(process.pid)
        found = mappings(process.pid)
        if reason := merged_by_us(process.pid, found):
            return Target(process, error=reason)
        return Target(process, ranges=tuple(eligible(process.pid, found)))
    except PagemergeError as error:
        return Target(process, error=explain(error, process))


def choose(targets: Iterable[Target], progress: Progress) -> dict[int, Selection]:
    """Select what is worth marking in each process that can be attached, by pid."""
    from pagemerge.ksmd.selecting import select

    wanted = [it.process for it in targets if not it.error]
    pids = {process.pid for process in wanted}
    marked = set(mergeable()) - pids
    beside = [it for it in everyone() if it.pid in marked]
    found = select(wanted, beside, progress=progress)
    return {one.pid: one for one in found}


def mark(chosen: Selection | None, pid: int, name: str, _: Callable[[], Ranges]) -> Outcome:
    """Attach the chosen ranges of a process. Raises ``PagemergeError`` if there are none."""
    if chosen is None or chosen.error:
        raise PagemergeError(chosen.error if chosen else "it has gone", pid=pid)
    return attach(pid, name, lambda: chosen.ranges, "madvise")


def do(target: Target, action: Action) -> Target:
    """Do ``action`` to a process, and return its target with the outcome or the error."""
    if target.error:
        return target
    who = target.process
    try:
        return Target(who, target.ranges, "", action(who.pid, who.name, lambda: target.ranges))
    except PagemergeError as error:
        return Target(who, target.ranges, explain(error, who))


def is_whole(target: Target) -> bool:
    """Return true if ksmd may already merge all memory of a process."""
    try:
        pid = target.process.pid
        return bool(readers.call(pid, process_ksm, pid).merge_any)
    except PagemergeError:
        return False


def remarked(target: Target, applies: bool, remark: str) -> Target:
    """Return ``target`` with a remark, if the remark applies and ``target`` has no error."""
    return replace(target, remark=remark) if applies and not target.error else target
