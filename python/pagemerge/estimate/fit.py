"""Forecasts how many more processes like some that were looked at fit into the memory left.

What one more costs is an average over those that were looked at, as large as they are now: a
process that grows costs more. Swap does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pagemerge.errors import NoSuchProcess
from pagemerge.estimate.cost import Cost, Running, costs, running
from pagemerge.find.look import Look
from pagemerge.find.sources import ProcessSource
from pagemerge.linux.room import Room, room
from pagemerge.linux.splits import frees_zeros
from pagemerge.model import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Plan:
    """Running as many more as fit under one assumption."""

    number: int
    """Further processes that fit; the reserve stays free."""
    left_bytes: int
    """What is left with them, with the reserve."""
    missing_bytes: int
    """What is missing if every page of every process unshares at once; 0 if all of that fits."""
    full_after_seconds: float | None
    """Until memory is full at the rate of writes; None if it is not known, or nothing is
    missing."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The result of ``fit``."""

    name: str
    """Of the processes that were looked at; print it through ``text.plain`` only."""
    like: int
    """Number of them."""
    cost: Cost
    """What one more costs: the average of them."""
    most_kernel_bytes: float
    """What the costliest of them adds with the kernel engine."""
    room: Room
    reserve_bytes: int
    unsharing_bytes_per_second: float | None
    """What one such process unshares by writing; None: not known."""
    now: Running
    apart: Plan
    """Without merging."""
    kernel: Plan
    user: Plan
    safe: Plan
    """With merging, and with the reserve left even if everything unshares at once."""
    splits_free_zeros: bool | None
    """This kernel also frees zero pages by splitting huge pages; None: not known."""


def like(found: Look, word: str) -> list[int]:
    """Find the sources of a look that ``word`` names: their indices.

    A word is the pid or the name of a process, or the name of a memory image. Raises
    ``NoSuchProcess`` if there is none.
    """
    chosen = []
    for index, source in enumerate(found.sources):
        pid = source.process.pid if isinstance(source, ProcessSource) else None
        if word in (source.name, str(pid)):
            chosen.append(index)
    if not chosen:
        raise NoSuchProcess(
            f"none of the processes looked at is {word!r}: name it as a process to look at, too, "
            "by its pid or its name (`ps -e`)"
        )
    return chosen


def fit(
    found: Look,
    models: Sequence[int],
    *,
    reserve_bytes: int = 0,
    unsharing_bytes_per_second: float | None = None,
) -> Fit:
    """Forecast how many more sources like ``models`` (indices into ``found.sources``) fit.

    ``reserve_bytes`` stay free in each plan. ``unsharing_bytes_per_second``: what one process
    unshares by writing (``scan --watch`` measures it). Reads the charges of the processes and the
    memory that is left, once. Raises ``NoSuchProcess`` or ``PagemergeError`` if none of the models
    could be looked at, and as ``room``.
    """
    usable = [index for index in models if not found.sources[index].error]
    each = costs(found, usable)
    cost = sum(each, Cost()).divided(len(each))
    first = found.sources[usable[0]]
    left = room(first.process.pid if isinstance(first, ProcessSource) else None)
    now = running(found, left)
    several = _Several(
        left.left_bytes,
        reserve_bytes,
        now.saved_bytes,
        cost.apart_bytes,
        cost.unshared_bytes,
        len(each),
        unsharing_bytes_per_second,
    )
    return Fit(
        first.name,
        len(each),
        cost,
        max(one.kernel_bytes for one in each),
        left,
        reserve_bytes,
        unsharing_bytes_per_second,
        now,
        several.plan(cost.apart_bytes, 0),
        several.plan(cost.kernel_bytes, now.kernel_bytes),
        several.plan(cost.user_bytes, now.user_bytes),
        several.safe(cost.kernel_bytes, now.kernel_bytes),
        frees_zeros(),
    )


@dataclass(frozen=True, slots=True)
class _Several:
    """What all plans have in common, in bytes."""

    left: int
    reserve: int
    saved: int
    apart: float
    """What one costs without merging."""
    unshared: float
    """What one costs when it has unshared everything."""
    running: int
    """Processes like it that run already."""
    rate: float | None
    """What each unshares in a second."""

    def plan(self, each: float, saves: int) -> Plan:
        """Run as many as fit if each costs ``each``, and merging saves ``saves`` of what runs.

        The last one has not been merged yet, and needs all that it costs without merging.
        """
        room = self.left + saves - self.reserve - max(self.apart - each, 0.0)
        return self._with(_whole(room, each), each, saves)

    def safe(self, each: float, saves: int) -> Plan:
        """Run as many as fit even if everything unshares."""
        left = self.left - self.saved - self.reserve
        return self._with(_whole(left, self.unshared), each, saves)

    def _with(self, number: int, each: float, saves: int) -> Plan:
        left = max(self.left + saves - number * each, 0)
        missing = max(int(number * self.unshared + self.saved - self.left), 0)
        seconds = None
        if self.rate and missing:
            seconds = left / (self.rate * (self.running + number))
        return Plan(number, int(left), missing, seconds)


def _whole(left: float, each: float) -> int:
    """Count how many times ``each`` fits; a process costs at least one page."""
    return max(int(left // max(each, PAGE_SIZE)), 0)
