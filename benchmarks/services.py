"""What merging saves in services that people run, and what it costs them.

Each recipe of ``examples/`` runs twice at the same time, plain and under an engine:

- all: the user engine merges all anonymous memory (``pagemerge run --all``, a hub at its defaults);
- kernel: ksmd does (``pagemerge run --engine kernel``, a governor at its defaults).

Both groups work for a moment. The engine merges until the memory of the group does not change any
more. Then both work in rounds, one after the other, and only one of them at a time; the engine
pauses while the plain group works. At last both rest, the engine merges again, and every process is
asked whether its data are right. Told are:

- the memory of each group, by its cgroup (without files, which the kernel can drop; with page
  tables, and with the hub or the governor): settled, busy (right after the last round), at rest;
- requests a second, the 99th percentile of their times, and the processor time that the group takes
  for a request: medians of the rounds. Only the last of them is of much worth on a busy host;
- the processor time of hub and agents, or ksmd and governor, until settled and during the rounds.

A table for people, then one line of JSON. Ends with 1 if an answer was wrong, with 77 if no recipe
could run here. Root is needed for ``kernel``, and for cgroups (else memory is the sum of PSS).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from lab.each import each
from lab.engines import ENGINES, Engine
from lab.group import Group, grouped
from lab.recipes import RECIPES
from lab.recipes.base import Recipe, Round, Service, Site, Under, group_of
from tests.support.ending import terminable

from pagemerge.errors import NoSuchProcess, PagemergeError, Unsupported
from pagemerge.linux.accounts import cpu_seconds

MB = 1e6


@dataclass(frozen=True, slots=True)
class Measured:
    """A round, and the processor time of the group in it."""

    round: Round
    cpu_seconds: float

    @property
    def cpu_ms(self) -> float:
        """Processor time of a request."""
        return self.cpu_seconds / self.round.requests * 1e3


@dataclass(frozen=True, slots=True)
class Running:
    """A group at work."""

    group: Group
    engine: Engine
    service: Service

    def cpu_seconds(self) -> float:
        """Processor time of the engine."""
        return self.engine.cpu_seconds(group_of(self.service))

    def load(self, seconds: float) -> Measured:
        """One round, with the processor time that it takes."""
        before = _spent(group_of(self.service))
        done = self.service.load(seconds)
        after = _spent(list(before))
        return Measured(done, sum(after[pid] - before[pid] for pid in after))


def _spent(pids: list[int]) -> dict[int, float]:
    """The processor time of each process that is still there."""
    spent = {}
    for pid in pids:
        with contextlib.suppress(NoSuchProcess):
            spent[pid] = cpu_seconds(pid)
    return spent


@dataclass(frozen=True, slots=True)
class Result:
    """One recipe under one engine, beside the plain program."""

    recipe: str
    engine: str
    processes: int
    plain_bytes: int
    settled_bytes: int
    """Before the rounds."""
    busy_bytes: int
    """Right after the last round."""
    plain_rest_bytes: int
    rest_bytes: int
    """Some time after the rounds, when merging has come to rest again."""
    settle_seconds: float
    settle_cpu_seconds: float
    load_cpu_seconds: float
    load_seconds: float
    """Of the rounds of this group."""
    plain_rate: float
    rate: float
    """Requests a second."""
    ratio: float
    """Median of the ratios of a round and the plain round before it."""
    plain_p99_ms: float
    p99_ms: float
    plain_cpu_ms: float
    cpu_ms: float
    """Processor time of a request, in all processes of the group, agents included."""
    rounds: int
    wrong: int

    @property
    def saved_bytes(self) -> int:
        """At rest."""
        return self.plain_rest_bytes - self.rest_bytes


@contextlib.contextmanager
def running(recipe: Recipe, engine: str) -> Iterator[Running]:
    """A group under an engine."""
    with grouped(engine) as group, ENGINES[engine](group) as merging:
        under = Under([*group.prefix(), *merging.words], merging.env)
        with recipe.start(under) as service:
            group.pids = lambda: [*merging.pids(), *group_of(service)]
            yield Running(group, merging, service)


def measure(recipe: Recipe, engine: str, args: argparse.Namespace) -> Result:
    """Run both groups."""
    with running(recipe, "plain") as plain:
        wrong = plain.service.check()
        plain.service.load(args.seconds)
        with running(recipe, engine) as merged:
            merged.service.load(args.seconds)
            begun = merged.cpu_seconds()
            settling = merged.group.settle(args.rest, args.patience)
            settled = merged.cpu_seconds()
            before = plain.group.resident_bytes(), merged.group.resident_bytes()
            merged.service.load(args.seconds)  # the first one brings pages back
            spent = merged.cpu_seconds()
            rounds = list(alternating(plain, merged, args))
            loaded, busy = merged.cpu_seconds(), merged.group.resident_bytes()
            merged.group.settle(args.rest, args.patience)
            after = plain.group.resident_bytes(), merged.group.resident_bytes()
            wrong += merged.service.check() + plain.service.check()
            count = len(group_of(merged.service))
    return Result(
        recipe=recipe.name,
        engine=engine,
        processes=count,
        plain_bytes=before[0],
        settled_bytes=before[1],
        busy_bytes=busy,
        plain_rest_bytes=after[0],
        rest_bytes=after[1],
        settle_seconds=round(settling, 1),
        settle_cpu_seconds=round(settled - begun, 2),
        load_cpu_seconds=round(loaded - spent, 2),
        load_seconds=round(sum(it.round.seconds for _, it in rounds), 1),
        plain_rate=round(median(it.round.rate for it, _ in rounds), 1),
        rate=round(median(it.round.rate for _, it in rounds), 1),
        ratio=round(median(b.round.rate / a.round.rate for a, b in rounds), 3),
        plain_p99_ms=round(median(it.round.p99_ms for it, _ in rounds), 2),
        p99_ms=round(median(it.round.p99_ms for _, it in rounds), 2),
        plain_cpu_ms=round(median(it.cpu_ms for it, _ in rounds), 4),
        cpu_ms=round(median(it.cpu_ms for _, it in rounds), 4),
        rounds=len(rounds),
        wrong=wrong + sum(a.round.wrong + b.round.wrong for a, b in rounds),
    )


def alternating(
    plain: Running, merged: Running, args: argparse.Namespace
) -> Iterator[tuple[Measured, Measured]]:
    """Rounds of the one and of the other."""
    for _ in range(args.rounds):
        with merged.engine.pause():
            first = plain.load(args.seconds)
        yield first, merged.load(args.seconds)


def show(results: list[Result]) -> None:
    """The table."""
    print(
        f"{'recipe':<24}{'engine':<8}{'plain':>9}{'settled':>9}{'busy':>9}{'at rest':>9}"
        f"{'saved':>7}{'settled in':>12}{'cpu':>8}{'rate':>8}{'request cpu':>13}"
        f"{'p99 plain':>11}{'p99':>9}{'cpu in rounds':>15}"
    )
    for it in results:
        wrong = f"   {it.wrong} WRONG" if it.wrong else ""
        print(
            f"{it.recipe:<24}{it.engine:<8}{it.plain_rest_bytes / MB:6,.0f} MB"
            f"{it.settled_bytes / MB:6,.0f} MB{it.busy_bytes / MB:6,.0f} MB"
            f"{it.rest_bytes / MB:6,.0f} MB{it.saved_bytes / it.plain_rest_bytes:7.0%}"
            f"{it.settle_seconds:10.1f} s{it.settle_cpu_seconds:6.1f} s{it.ratio:8.0%}"
            f"{it.cpu_ms / it.plain_cpu_ms:13.0%}"
            f"{it.plain_p99_ms:8.1f} ms{it.p99_ms:6.1f} ms"
            f"{it.load_cpu_seconds / it.load_seconds:15.1%}{wrong}"
        )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=RECIPES, help="recipe, repeatable")
    parser.add_argument("--engine", action="append", choices=["all", "kernel"], help="repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round (default 5)")
    parser.add_argument("--rest", type=float, default=30.0, help="seconds to settle, at least")
    parser.add_argument("--patience", type=float, default=180.0, help="seconds to settle, at most")
    parser.add_argument("--python", default=sys.executable, help="Python of the examples")
    parser.add_argument("--small", action="store_true", help="little data: shows that it runs")
    args = parser.parse_args()
    results: list[Result] = []

    def run(name: str) -> None:
        with tempfile.TemporaryDirectory(prefix="pagemerge-services-") as folder:
            Path(folder).chmod(0o711)
            RECIPES[name].prepare(Site(Path(folder), args.small, args.python))
            for engine in args.engine or ["all", "kernel"]:
                results.append(measure(RECIPES[name], engine, args))
                show(results[-1:])

    with terminable():
        try:
            lacking, failed = each(args.only or list(RECIPES), run)
        except PagemergeError as error:
            print(f"services.py: {error}", file=sys.stderr)
            return error.exit_status
    if results:
        show(results)
    print(json.dumps({"results": [asdict(it) for it in results], "lacking": lacking}))
    if failed or any(it.wrong for it in results):
        return 1
    return 0 if results else Unsupported("").exit_status


if __name__ == "__main__":
    sys.exit(main())
