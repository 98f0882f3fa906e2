"""The processes that are opted in to kernel KSM, or out of it: what stands in the way of each, and
what was done."""

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
from pagemerge.linux.ksm import Ksm, is_mergeable, process_ksm
from pagemerge.linux.maps import mappings

if TYPE_CHECKING:  # numpy takes longer to import than all of this
    from pagemerge.find.reading import Progress
    from pagemerge.ksmd.model import Selection

Ranges = tuple[tuple[int, int], ...]
Action = Callable[[int, str, Callable[[], Ranges]], Outcome]


@dataclass(frozen=True, slots=True)
class Target:
    """One process: what stands in the way, or what was done."""

    process: Process
    ranges: Ranges = ()
    """What of it can be merged, when it was looked at."""
    error: str = ""
    outcome: Outcome | None = None
    remark: str = ""
    """What else is to be said of it."""
    merged_bytes: int | None = None
    """What ksmd has merged of it; None where nobody has asked, or the kernel does not tell."""

    @property
    def eligible_bytes(self) -> int:
        """How much of it can be merged."""
        return sum(end - start for start, end in self.ranges)


def ready(words: Iterable[str]) -> tuple[Ksm, list[Process]]:
    """Kernel KSM, and the processes that ``words`` name.

    Raises ``Unsupported`` where there is no kernel KSM or it is not this user's to use.
    """
    ksm = Ksm()
    if reason := ksm.lack():  # our own engine is no way to reach a program that runs already
        raise Unsupported(reason)
    return ksm, named(words)


def refuse_several_users(processes: Iterable[Process], merged: Mapping[int, list[int]]) -> None:
    """Raise ``UsageError`` if different users' memory would be merged with each other.

    ``merged``: the processes that kernel KSM has already, as ``users_merged`` tells them.
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
    """What can be merged of a process, or what stands in the way; does nothing to it."""
    try:
        _core.inject_check(process.pid)
        found = mappings(process.pid)
        if reason := merged_by_us(process.pid, found):
            return Target(process, error=reason)
        return Target(process, ranges=tuple(eligible(process.pid, found)))
    except PagemergeError as error:
        return Target(process, error=explain(error, process))


def choose(targets: Iterable[Target], progress: Progress) -> dict[int, Selection]:
    """What is worth being marked in each process that can be attached, by pid."""
    from pagemerge.ksmd.selecting import select

    wanted = [it.process for it in targets if not it.error]
    pids = {process.pid for process in wanted}
    beside = [it for it in everyone() if it.pid not in pids and is_mergeable(it.pid)]
    found = select(wanted, beside, progress=progress)
    return {one.pid: one for one in found}


def mark(chosen: Selection | None, pid: int, name: str, _: Callable[[], Ranges]) -> Outcome:
    """Attach the chosen ranges of a process."""
    if chosen is None or chosen.error:
        raise PagemergeError(chosen.error if chosen else "it has gone", pid=pid)
    return attach(pid, name, lambda: chosen.ranges, "madvise")


def do(target: Target, action: Action) -> Target:
    """``target`` with what came of it."""
    if target.error:
        return target
    who = target.process
    try:
        return Target(who, target.ranges, "", action(who.pid, who.name, lambda: target.ranges))
    except PagemergeError as error:
        return Target(who, target.ranges, explain(error, who))


def is_whole(target: Target) -> bool:
    """May ksmd merge all of a process already?"""
    try:
        return bool(process_ksm(target.process.pid).merge_any)
    except PagemergeError:
        return False


def remarked(target: Target, applies: bool, remark: str) -> Target:
    """``target`` with a remark, if that applies and nothing worse is to be said."""
    return replace(target, remark=remark) if applies and not target.error else target
