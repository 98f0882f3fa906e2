"""Runs the demo step by step: load, measure, merge, measure again, verify, write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pagemerge.demo import content, expect
from pagemerge.demo.outcome import GOOD_ENOUGH, Accounts, Outcome
from pagemerge.demo.stage import Stage
from pagemerge.hub.model import ClientStatus, Status
from pagemerge.linux.accounts import available_bytes, cgroup_bytes, resident
from pagemerge.model import PAGE_SIZE

PRIVATE_BYTES = 16_000_000
HOT_BYTES = 1024 * PAGE_SIZE

MERGING = 300.0
"""Seconds that background merging may take."""

LOOKS, MORE_LOOKS = 2, 8
"""Full scans that must pass without more gain: if the gain is about as much as expected, and if it
is less (a worker may have been busy, and the hub tries again after some scans)."""

HOPE = 15.0
"""Seconds that must pass as well if the gain is less than expected: on a busy host the hub may scan
several times before it merges."""

READS = 3
"""Times that the memory of the workers is read; the largest counts."""

WRITTEN = 64
"""Shared pages that one worker writes to at the end."""

Tell = Callable[[str, float | None], None]
"""Called with the name of the current step, and the part of it that is done (0 to 1, or None)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings from the command line."""

    workers: int
    loaded_bytes: int
    barrier: str


@dataclass(frozen=True, slots=True)
class Merged:
    """The result of merging."""

    status: Status
    seconds: float
    cpu_seconds: float


def play(settings: Settings, tell: Tell) -> Outcome:
    """Run the demo; every process that it starts has ended when this returns or raises."""
    tell("looking for real data", None)
    pieces, sources = content.collect(pages_of(settings.loaded_bytes))
    loaded = sum(piece.room for piece in pieces)
    with Stage(settings.barrier) as stage:
        tell(f"starting {settings.workers} workers", None)
        stage.start_workers(settings.workers)
        areas = open_memory(stage, loaded)
        client = stage.clients()[0]
        background = client.barrier != "intern"
        idle = stage.status()
        if background:
            stage.hold()  # or the hub would merge before the demo has measured the memory

        tell("loading files", None)
        stage.ask("load", pieces=[(piece.path, piece.size) for piece in pieces])
        tell("working out what can be saved", None)
        expected = expectation(stage, areas)
        before = accounts(stage, idle.store_bytes)
        spent = cpu_seconds(stage)
        merged = (in_background if background else by_workers)(stage, expected, tell)
        after = accounts(stage, merged.status.store_bytes)

        tell("verifying every page", None)
        checks = stage.ask("check")
        tell("writing to shared pages", None)
        written, separated = separate(stage)
    lost = sum(check["lost"] for check in checks)
    changed = sum(check["changed"] for check in checks)
    return Outcome(
        workers=settings.workers,
        page_size=PAGE_SIZE,
        engine=merged.status.engine,
        barrier=client.barrier,
        asked_barrier=settings.barrier,
        why=why(client, settings.barrier),
        before=before,
        after=after,
        before_bytes=before.total_bytes,
        after_bytes=after.total_bytes,
        saved_bytes=before.total_bytes - after.total_bytes,
        expected_saved_bytes=expected,
        loaded_bytes=loaded,
        private_bytes=pages_of(PRIVATE_BYTES),
        hot_bytes=HOT_BYTES,
        sources=sources,
        merge_seconds=merged.seconds,
        cpu_seconds=merged.cpu_seconds - spent,
        pages_shared=merged.status.pages_shared,
        pages_sharing=merged.status.pages_sharing,
        zero_pages=merged.status.zero_pages,
        writes=sum(check["writes"] for check in checks),
        lost_writes=lost,
        changed_pages=changed,
        contents_verified=not lost and not changed,
        written_pages=written,
        separated_after_write=separated,
    )


def pages_of(nbytes: int) -> int:
    """Round ``nbytes`` down to whole pages, in bytes."""
    return nbytes // PAGE_SIZE * PAGE_SIZE


def open_memory(stage: Stage, loaded: int) -> list[list[tuple[int, int]]]:
    """Have each worker allocate its memory; returns (address, pages) of its areas, by worker."""
    answers = stage.ask("open", loaded=loaded, private=pages_of(PRIVATE_BYTES), hot=HOT_BYTES)
    return [[(start, pages) for start, pages in answer["areas"]] for answer in answers]


def expectation(stage: Stage, areas: list[list[tuple[int, int]]]) -> int:
    """Compute the bytes that merging should save, from two looks and a turn of the writers between
    them."""
    seed = int.from_bytes(os.urandom(8), "little")

    def look() -> expect.Digests:
        pairs = zip(stage.workers, areas, strict=True)
        return np.concatenate([expect.read_digests(worker.pid, own, seed) for worker, own in pairs])

    first = look()
    stage.ask("turn", turns=2)  # two, because the turn that has begun already does not count
    return expect.saved_bytes(first, look())


def accounts(stage: Stage, store_bytes: int) -> Accounts:
    """Read the kernel's accounts."""
    # While an agent looks for pinned pages it forks, and half of a worker's memory is the child's.
    pss = max(anonymous_bytes(stage) for _ in range(READS))
    return Accounts(pss, store_bytes, available_bytes(), cgroup_bytes(os.getpid()))


def anonymous_bytes(stage: Stage) -> int:
    """Read the anonymous memory of all workers, in bytes."""
    found = [resident(worker.pid) for worker in stage.workers]
    return sum(it.anonymous_pss_bytes + it.swapped_pss_bytes for it in found)


def cpu_seconds(stage: Stage) -> float:
    """Read the processor time so far of the hub, and of the workers without their writers."""
    workers: float = sum(answer["seconds"] for answer in stage.ask("cpu"))
    return stage.hub_cpu_seconds() + workers


def in_background(stage: Stage, expected: int, tell: Tell) -> Merged:
    """Let the hub merge until it finds no more; the measured time ends when the gain last grew.

    The gain may also fall: the hub sometimes merges pages of the writers, and they separate again.
    """
    began = time.monotonic()
    stage.release()
    status = stage.status()
    best, reached, cpu, scans = 0, began, cpu_seconds(stage), status.full_scans

    def settled() -> bool:
        nonlocal status, best, reached, cpu, scans
        status = stage.status()
        gain = (status.pages_sharing + status.zero_pages) * PAGE_SIZE
        if gain > best:
            best, reached, scans = gain, time.monotonic(), status.full_scans
            cpu = cpu_seconds(stage)
        tell("the hub merges in the background", min(1.0, gain / max(expected, 1)))
        if best >= GOOD_ENOUGH * expected:
            return status.full_scans >= scans + LOOKS
        hopeless = time.monotonic() >= reached + HOPE
        return hopeless and status.full_scans >= scans + MORE_LOOKS

    stage.until(settled, MERGING, "finish merging")
    return Merged(status, reached - began, cpu)


def by_workers(stage: Stage, expected: int, tell: Tell) -> Merged:
    """Have all workers merge what they loaded, at the same time."""
    tell("the workers merge what they loaded", None)
    began = time.monotonic()
    stage.ask("intern")
    seconds = time.monotonic() - began
    return Merged(stage.status(), seconds, cpu_seconds(stage))


def separate(stage: Stage) -> tuple[int, bool]:
    """Have the first worker write to shared pages.

    Returns how many it wrote, and whether it alone changed.
    """
    answer = stage.workers[0].ask("write", pages=WRITTEN)
    # The worker has noted what it wrote, so its check finds any other change.
    checks = stage.ask("check")
    unharmed = not any(check["changed"] or check["lost"] for check in checks)
    written: int = answer["written"]
    return written, unharmed and written > 0 and answer["own"] == written


def why(client: ClientStatus, asked: str) -> str:
    """Write the reason for the barrier in words."""
    if client.note:
        return client.note
    if asked == client.barrier:
        return f"--barrier {asked} asked for it"
    return {
        "move": "the workers have a full-mode userfaultfd, and the kernel has UFFDIO_MOVE",
        "write-protect": "the workers have a full-mode userfaultfd, but not UFFDIO_MOVE",
        "park": "the workers have no full-mode userfaultfd",
        "intern": "the workers have no full-mode userfaultfd, so no hub can merge them",
    }.get(client.barrier, client.barrier)
