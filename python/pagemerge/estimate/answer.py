"""Answers the questions about some sources from one look at them, or from several over time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pagemerge.errors import PagemergeError
from pagemerge.estimate import labels, trust, what, who
from pagemerge.estimate.looks import Looks, Watched
from pagemerge.find.look import Look, Progress, look
from pagemerge.find.process import Process
from pagemerge.find.sources import ProcessSource, Source, locate
from pagemerge.find.survey import Survey, summed_up
from pagemerge.linux.process import stat


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked besides how much merging would save."""

    what: bool = False
    group_by: str = ""
    """A key of ``labels.KINDS``; empty: not asked."""
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
    contents: what.Contents | None = None
    sharing: who.Sharing | None = None
    watched: Watched | None = None


def answer(
    choose: Callable[[], Sequence[Process]],
    images: Sequence[Source],
    questions: Questions,
    progress: Progress = lambda _done, _total: None,
) -> Answer:
    """Look at the processes that ``choose`` returns and at ``images``, and answer ``questions``.

    ``choose`` is called for each look, because processes come and go. Nothing is raised for a
    process that ends or denies access: its row has an ``error``.
    """
    started = time.monotonic()
    watched = None
    if questions.watch_seconds:
        found, watched = _watch(choose, questions, progress)
    else:
        processes = [locate(process) for process in choose()]
        found = look([*processes, *images], questions.threads, progress)
    survey = replace(summed_up(found), seconds=time.monotonic() - started)
    kind = questions.group_by
    return Answer(
        survey,
        trust.price(found),
        what.contents(found) if questions.what else None,
        who.sharing(found, [labels.label(it, kind) for it in found.sources], kind)
        if kind
        else None,
        watched,
    )


def _watch(
    choose: Callable[[], Sequence[Process]], questions: Questions, progress: Progress
) -> tuple[Look, Watched]:
    """Look again and again, until the time is over; returns the last look."""
    looks, seed = Looks(), None
    begun = time.monotonic()
    end, due = begun + questions.watch_seconds, begun
    while True:
        at = time.monotonic()
        sources = [locate(process) for process in choose()]
        births = {source.process.pid: _birth(source) for source in sources}
        found = look(sources, questions.threads, progress, seed)
        looks.add(found, births, at)
        seed = found.seed
        # A look that takes longer than the interval is followed by the next one at once.
        due = max(due + questions.every_seconds, time.monotonic())
        if due > end + questions.every_seconds / 2:
            return found, looks.result()
        time.sleep(max(due - time.monotonic(), 0))


def _birth(source: ProcessSource) -> int:
    try:
        return stat(source.process.pid).start_time
    except PagemergeError:
        return 0
