"""Answers the questions about some sources from one look at them, or from several over time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pagemerge.errors import NoSuchProcess, OutOfMemory, PagemergeError
from pagemerge.estimate import compress, fit, labels, trust, what, who, why
from pagemerge.estimate.looks import Looks, Watched
from pagemerge.find.look import Look, Progress, look
from pagemerge.find.process import Process, named
from pagemerge.find.sources import ProcessSource, Source, located
from pagemerge.find.survey import Survey, summed_up
from pagemerge.linux.accounts import available_bytes
from pagemerge.linux.aside import readers
from pagemerge.linux.process import stat
from pagemerge.model import PAGE_SIZE

BYTES_A_PAGE = 24
"""Bytes that a look and its counting take for each page at most (benchmarks/counting.py)."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked besides how much merging would save."""

    what: bool = False
    group_by: str = ""
    """A key of ``labels.KINDS``; empty: not asked."""
    why: bool = False
    everyone: bool = False
    """All processes of the host are looked at."""
    compress: bool = False
    fit: str = ""
    """Pid or name of processes, or name of an image: how many more like it fit? Empty: not
    asked."""
    reserve_bytes: int = 0
    """Memory that has to stay free for ``fit``."""
    watch_seconds: float = 0.0
    """Time from the first look to the last; 0: one look."""
    every_seconds: float = 10.0
    """Time from one look to the next."""
    threads: int = 0
    """Threads that read; 0: one for each processor that this process may use."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answers; None for what was not asked."""

    survey: Survey
    price: trust.Price
    notes: tuple[tuple[str, str], ...] = ()
    """Names of images, and what is missing from each."""
    contents: what.Contents | None = None
    sharing: who.Sharing | None = None
    watched: Watched | None = None
    reasons: why.Why | None = None
    fit: fit.Fit | None = None
    compression: compress.Compression | None = None


def answer(
    choose: Callable[[], Sequence[Process]],
    images: Sequence[Source],
    questions: Questions,
    progress: Progress = lambda _done, _total: None,
) -> Answer:
    """Look at the processes that ``choose`` returns and at ``images``, and answer ``questions``.

    ``choose`` is called for each look, because processes come and go. Nothing is raised for a
    process that ends or denies access: its row has an ``error``. Raises ``Unsupported`` if a
    library is missing, and what ``fit`` raises.
    """
    started = time.monotonic()
    watched = None
    if questions.watch_seconds:
        found, watched = _watch(choose, questions, progress)
    else:
        sources: list[Source] = [*located(choose()), *images]
        _check_memory(sources)
        found = look(sources, questions.threads, progress)
    survey = replace(summed_up(found), seconds=time.monotonic() - started)
    kind = questions.group_by
    groups = [labels.label(it, kind) for it in found.sources] if kind else []
    return Answer(
        survey,
        trust.price(found, survey.totals),
        notes(images),
        what.contents(found) if questions.what else None,
        who.sharing(found, groups, kind) if kind else None,
        watched,
        why.why(found, survey, everyone=questions.everyone) if questions.why else None,
        _fit(found, questions, watched) if questions.fit else None,
        compress.compress(found, progress=progress) if questions.compress else None,
    )


def notes(images: Sequence[Source]) -> tuple[tuple[str, str], ...]:
    """Return the names of images of which something is missing, and what, after they were read."""
    return tuple((it.name, note) for it in images if (note := getattr(it, "note", "")))


def _fit(found: Look, questions: Questions, watched: Watched | None) -> fit.Fit:
    """Forecast how many more fit; what was watched tells how fast their pages unshare."""
    pids = _pids(questions.fit)
    chosen = [
        at
        for at, source in enumerate(found.sources)
        if isinstance(source, ProcessSource) and source.process.pid in pids
    ] or fit.like(found, questions.fit)
    rate = None
    if watched is not None:
        rate = watched.unshared_per_second * PAGE_SIZE / max(len(found.sources), 1)
    return fit.fit(
        found,
        chosen,
        reserve_bytes=questions.reserve_bytes,
        unsharing_bytes_per_second=rate,
    )


def _pids(word: str) -> set[int]:
    """Find the processes that ``word`` names, also by the base name of their program."""
    try:
        return {process.pid for process in named([word])}
    except NoSuchProcess:
        return set()


def _watch(
    choose: Callable[[], Sequence[Process]], questions: Questions, progress: Progress
) -> tuple[Look, Watched]:
    """Look again and again, at least twice, until the time is over; returns the last look."""
    looks, seed, number = Looks(), None, 0
    begun = time.monotonic()
    end, due = begun + questions.watch_seconds, begun
    while True:
        at = time.monotonic()
        sources = located(choose())
        _check_memory(sources)
        births = _births([source.process.pid for source in sources])
        found = look(sources, questions.threads, progress, seed)
        looks.add(found, births, at)
        seed, number = found.seed, number + 1
        # A look that takes longer than the interval is followed by the next one at once.
        due = max(due + questions.every_seconds, time.monotonic())
        if number > 1 and due > end + questions.every_seconds / 2:
            return found, looks.result()
        time.sleep(max(due - time.monotonic(), 0))


def _check_memory(sources: Sequence[Source]) -> None:
    """Raise ``OutOfMemory`` if this host cannot remember the digests of so many pages.

    Processes that have forked a thousand times map a thousand times their memory.
    """
    pages, available = sum(source.total for source in sources), available_bytes()
    if available is not None and BYTES_A_PAGE * pages > available:
        raise OutOfMemory(
            f"to compare {pages:,} pages takes {BYTES_A_PAGE * pages >> 20:,} MiB of memory, more "
            "than is available: use --sample, or look at fewer processes"
        )


def _births(pids: Sequence[int]) -> dict[int, int]:
    """Return the start times of processes by pid; 0 if it is not known."""
    told = zip(pids, readers.quick(stat, pids), strict=True)
    return {pid: 0 if isinstance(it, PagemergeError) else it.start_time for pid, it in told}
