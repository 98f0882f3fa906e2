"""What will be done to whom and when: a pure function of the seed.

Only the plan is the same for one seed; what meets what in the victims is up to the scheduler.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

VICTIMS = 8
"""Processes with memory at a time, about."""

UNMARKED = 0.3
"""Share of the programs that mark nothing, and run under ``pagemerge run --all``."""

GUESTS = 0.3
"""Share of the programs that are virtual machines, where the host has KVM."""

EBB = 240.0
"""Seconds between two times when all victims leave and nothing may be left of them."""

STORM = 0.5
"""Share of the time in which hubs are killed; the last one lives through the rest, so that its
memory can be seen to grow."""

TIRELESS = "idle_percent = 100\nlongest_hold = 0\n"
"""Victims are to be merged again and again, whatever they do meanwhile."""

SETTINGS = (
    f"looks = 1\ncpu_percent = 100\nlongest_pause = 0.05\n{TIRELESS}",
    f"looks = 2\ncpu_percent = 100\nlongest_pause = 0.1\ndead_share = 0.2\n{TIRELESS}",
    "looks = 1\ncpu_percent = 60\nlongest_pause = 0.3\nleast_run = 4\n",
)
"""Of the hubs: the first is the one that lives long."""


@dataclass(frozen=True, slots=True)
class Start:
    """A victim comes."""

    at: float
    serial: int
    program: bool
    """Of C under ``pagemerge run``; otherwise a member of the Python API."""
    barrier: str
    seed: int
    pages: int
    """Of each of its parts."""
    writers: int
    pause: int
    """Longest pause of a writer after some writes, in microseconds; 0: it never rests."""
    guest: bool = False
    """The program is a virtual machine."""
    unmarked: bool = False
    """The program marks nothing."""


@dataclass(frozen=True, slots=True)
class Victim:
    """Something is done to a victim: ``kill``, ``exit`` (at once), ``leave`` (after a check), or
    ``stop`` (SIGSTOP, for ``seconds``)."""

    at: float
    what: str
    serial: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub gets SIGKILL, and ``seconds`` later there is a new one with other ``settings``; or
    SIGSTOP for that long."""

    at: float
    what: str
    seconds: float
    settings: int = 0


@dataclass(frozen=True, slots=True)
class All:
    """Every victim verifies every page (``check``), or all leave (``ebb``)."""

    at: float
    what: str


Event = Start | Victim | Hub | All


def plan(
    seed: int, seconds: float, barriers: Sequence[str], *, guests: bool = False
) -> list[Event]:
    """All events of a soak of ``seconds`` seconds, in order; the last is an ebb.

    ``barriers``: those this host has, the most usual one first. ``guests``: it has
    KVM, and ``GUESTS`` of the programs are virtual machines.
    """
    chance = random.Random(seed)
    ebbs = max(1, round(seconds / EBB))
    made: list[Event] = []
    serials = iter(range(1, 32768))
    for number in range(ebbs):
        begin, end = seconds * number / ebbs, seconds * (number + 1) / ebbs
        made.extend(_tide(chance, begin, end, barriers, serials, guests))
        made.append(All(end, "ebb"))
    storm = min(seconds * STORM, max(0.0, seconds - 8))
    made.extend(_hubs(chance, storm, seconds, [seconds * it / ebbs for it in range(1, ebbs + 1)]))
    made.extend(All(at / 10, "check") for at in range(50, int(seconds * 10), 73))
    return sorted(made, key=lambda event: event.at)


def _tide(
    chance: random.Random,
    begin: float,
    end: float,
    barriers: Sequence[str],
    serials: Iterator[int],
    guests: bool,
) -> Iterator[Event]:
    """Victims from one ebb to the next."""
    at, alive = begin, list[int]()
    while at < end - 1:
        if len(alive) < 2 or chance.random() < 0.5 + (VICTIMS - len(alive)) / 8:
            serial = next(serials)
            alive.append(serial)
            program = chance.random() < 0.55
            guest = guests and program and chance.random() < GUESTS
            yield Start(
                at=at,
                serial=serial,
                program=program,
                barrier=_barrier(chance, barriers, program),
                seed=chance.getrandbits(62) | 1,
                pages=chance.choice([64, 128, 256, 512]),
                writers=chance.choice([1, 1, 2]),
                pause=chance.choice([0, 5_000, 20_000, 100_000]),
                guest=guest,
                unmarked=program and not guest and chance.random() < UNMARKED,
            )
        else:
            serial = chance.choice(alive)
            what = chance.choices(["kill", "exit", "leave", "stop"], [3, 2, 2, 4])[0]
            if what != "stop":
                alive.remove(serial)
            yield Victim(at, what, serial, chance.uniform(0.3, 4.0))
        # The first ones come quickly.
        at += chance.uniform(0.1, 0.5) if len(alive) < VICTIMS / 2 else chance.uniform(0.3, 2.5)


def _barrier(chance: random.Random, barriers: Sequence[str], program: bool) -> str:
    """The first for most, each other one for a fifth; a few members are merged by request only."""
    if not program and chance.random() < 0.1:
        return "intern"
    others = list(barriers[1:])
    return chance.choices(barriers, [5 - len(others), *[1] * len(others)])[0]


def _hubs(
    chance: random.Random, storm: float, seconds: float, ebbs: Sequence[float]
) -> Iterator[Event]:
    """Deaths until the storm ends, the last one then; stops all the time."""
    at = 0.0
    while (at := at + chance.uniform(3.0, 25.0)) < seconds - 6:
        if any(ebb - 6 < at < ebb + 3 for ebb in ebbs):
            continue  # what is left when all have left is told by a hub that is there
        if at < storm - 6 and chance.random() < 0.7:
            settings = chance.randrange(len(SETTINGS))
            yield Hub(at, "kill", chance.choice([0.0, 0.5, 2.0, 4.0]), settings)
        else:
            yield Hub(at, "stop", chance.uniform(0.5, 4.0))
    yield Hub(storm, "kill", 0.5, 0)
