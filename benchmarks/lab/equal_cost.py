"""Compares what is saved with what it costs: pure functions on the curves of ``frontier.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

BASE = "ksmd"
"""The setting that others are compared with: ksmd at its defaults."""
GOALS = {"static": 12.6, "changing": 5.0}
"""How often what ksmd saves at its defaults, for the same processor time."""
NOTHING = 1e-3
"""Part of what could be saved below which nothing counts as saved: the error of the accounts."""
MOMENTS = 8
"""At how many moments figures are compared."""


@dataclass(frozen=True, slots=True)
class Point:
    """A moment of a run."""

    seconds: float
    saved_bytes: int
    cpu_seconds: float
    """Of the engine, since before the programs filled their memory."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A run up to a moment."""

    byte_seconds: float
    cpu_seconds: float


def until(curve: Sequence[Point], end: float) -> Sum:
    """What was saved and spent until ``end`` seconds; between two points lies a straight line."""
    total, spent = 0.0, curve[0].cpu_seconds
    for one, two in pairwise(curve):
        if one.seconds >= end:
            break
        part = min((end - one.seconds) / (two.seconds - one.seconds), 1.0)
        last = one.saved_bytes + part * (two.saved_bytes - one.saved_bytes)
        total += (one.saved_bytes + last) / 2 * part * (two.seconds - one.seconds)
        spent = one.cpu_seconds + part * (two.cpu_seconds - one.cpu_seconds)
    return Sum(total, spent)


def beside(own: Sum, base: Sum, possible: float) -> dict[str, float | None]:
    """How often the savings of ``base``, and its processor time, another run has.

    ``possible``: bytes x seconds that could be saved. None: ``base`` has saved nothing.
    """
    saves = base.byte_seconds > NOTHING * possible
    return {
        "times_saved": round(own.byte_seconds / base.byte_seconds, 2) if saves else None,
        "times_cpu": round(own.cpu_seconds / base.cpu_seconds, 2) if base.cpu_seconds else None,
    }


def best(sums: dict[str, Sum], most: float) -> str | None:
    """Which of these runs saved most for ``most`` processor seconds or fewer, if there is one."""
    cheap = {name: it for name, it in sums.items() if it.cpu_seconds <= most}
    return max(cheap, key=lambda name: cheap[name].byte_seconds, default=None)


def equal(
    own: Sequence[Point], base: Sequence[Point], goal: float, savable: int
) -> dict[str, float | None]:
    """Where a run has cost no more than ``base``, and how often it had saved what ``base`` had.

    ``from_seconds``: from then on it never costs more again; None: it costs more at the end.
    ``times_saved``: how often the savings of ``base``, at that moment; None: ``base`` had saved
    nothing. ``until_seconds``: the last moment after it with ``goal`` times as much; None: there
    is none. ``savable``: bytes that could be saved.
    """
    told: dict[str, float | None] = dict.fromkeys(("from_seconds", "times_saved", "until_seconds"))
    moments = [it.seconds for it in base if it.seconds > 0]
    pairs = [(until(own, end), until(base, end)) for end in moments]
    dear = [at for at, (one, two) in enumerate(pairs) if one.cpu_seconds > two.cpu_seconds]
    first = dear[-1] + 1 if dear else 0
    for end, (one, two) in zip(moments[first:], pairs[first:], strict=True):
        times = beside(one, two, savable * end)["times_saved"]
        if told["from_seconds"] is None:
            told |= {"from_seconds": end, "times_saved": times}
        saves = one.byte_seconds > NOTHING * savable * end
        if saves and (times is None or times >= goal):
            told["until_seconds"] = end
    return told


def over_time(
    curves: dict[str, Sequence[Point]], base: str, own: Sequence[str], savable: int, seconds: float
) -> list[dict[str, Any]]:
    """At several moments: what ``base`` has saved until then, and the best of ``own`` that had cost
    no more until then. ``savable``: bytes that could be saved."""
    found = []
    for number in range(1, MOMENTS + 1):
        end = seconds * number / MOMENTS
        sums = {name: until(curve, end) for name, curve in curves.items()}
        name = best({it: sums[it] for it in own if it in sums}, sums[base].cpu_seconds)
        row = {"seconds": round(end, 1), "base": _told(sums[base]), "setting": name}
        if name:
            row["best"] = _told(sums[name])
            row |= beside(sums[name], sums[base], savable * end)
        found.append(row)
    return found


def _told(it: Sum) -> dict[str, float]:
    return {
        "saved_gb_seconds": round(it.byte_seconds / 1e9, 3),
        "cpu_seconds": round(it.cpu_seconds, 2),
    }
