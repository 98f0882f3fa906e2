"""Attaches or detaches processes for the API, as a process of its own (``child``)."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import msgspec

from pagemerge.errors import PagemergeError
from pagemerge.ksmd import targets as ksmd
from pagemerge.ksmd.attach import attach, detach, merged_bytes, users_merged
from pagemerge.ksmd.targets import Target
from pagemerge.linux.ksm import is_mergeable
from pagemerge.service.api.calls import Marked
from pagemerge.service.api.child import tell


def main() -> None:
    """Do what the request on standard input says, and tell the result."""
    signal.signal(signal.SIGTERM, _stop)
    request = json.load(sys.stdin)
    try:
        done = _attached(request) if request["what"] == "attach" else _detached(request)
        told = [msgspec.to_builtins(marked(it)) for it in done]
    except PagemergeError as error:
        tell(error=type(error).__name__, message=str(error))
    else:
        tell(result=told)


def marked(target: Target) -> Marked:
    """Return what callers learn of a target."""
    who = target.process
    return Marked(
        who.pid,
        who.name,
        who.uid,
        target.eligible_bytes,
        target.error or None,
        target.remark or None,
        target.merged_bytes,
        target.outcome,
    )


def _attached(request: dict[str, Any]) -> list[Target]:
    _, processes = ksmd.ready(request["words"])
    if not request["across_users"]:
        ksmd.refuse_several_users(processes, users_merged())
    targets = [ksmd.examine(process) for process in processes]
    chosen = ksmd.choose(targets, lambda _done, _total: None) if request["select"] else {}
    if request["dry_run"]:
        return [ksmd.remarked(it, ksmd.is_whole(it), "is so already") for it in targets]
    return [
        ksmd.do(it, partial(ksmd.mark, chosen.get(it.process.pid)) if request["select"] else attach)
        for it in targets
    ]


def _detached(request: dict[str, Any]) -> list[Target]:
    _, processes = ksmd.ready(request["words"])
    targets = [ksmd.examine(process) for process in processes]
    if not request["dry_run"]:
        return [ksmd.do(it, detach) for it in targets]
    nothing = "is not mergeable: there is nothing to undo"
    found = []
    for it in targets:
        pid = it.process.pid
        it = ksmd.remarked(it, not is_mergeable(pid), nothing)
        found.append(it if it.error else replace(it, merged_bytes=merged_bytes(pid)))
    return found


def _stop(_number: int, _frame: FrameType | None) -> None:
    """End at SIGTERM. Python calls this between two calls of the core, where no process is stopped
    and nothing is left in the middle."""
    raise SystemExit(143)


if __name__ == "__main__":
    main()
