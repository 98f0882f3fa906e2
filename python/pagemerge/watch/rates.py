"""Compares two moments: what merging costs now, and how fast pages unshare."""

from __future__ import annotations

from dataclasses import dataclass

from pagemerge.watch.model import KernelEngine, Moment, UserEngine


@dataclass(frozen=True, slots=True)
class Rates:
    """What happens in a second, between two moments; None for what one of them does not tell."""

    seconds: float
    user_cores: float | None = None
    """Processor time of the hub, as a share of one core."""
    kernel_cores: float | None = None
    """Processor time of ksmd, as a share of one core."""
    user_separations: float | None = None
    """Merged pages that were written, per second."""
    kernel_separations: float | None = None

    @classmethod
    def between(cls, before: Moment, now: Moment) -> Rates:
        """Compare two moments; an engine that was replaced meanwhile has no rates."""
        seconds = now.time - before.time
        if seconds <= 0:
            return cls(0.0)
        user = _same_hub(before.user, now.user)
        kernel = (before.kernel, now.kernel) if before.kernel and now.kernel else None
        return cls(
            seconds,
            _rate(user and (user[0].cpu_seconds, user[1].cpu_seconds), seconds),
            _rate(kernel and (kernel[0].cpu_seconds, kernel[1].cpu_seconds), seconds),
            _rate(user and (user[0].separations, user[1].separations), seconds),
            _rate(kernel and _separations(*kernel), seconds),
        )


def row_separations(before: Moment, now: Moment) -> dict[int, float]:
    """Return the merged pages of each process that were written per second, by pid.

    Processes that did not exist at both moments, or of which it is not known, are left out.
    """
    seconds = now.time - before.time
    then = {row.pid: row for row in before.rows}
    found = {}
    for row in now.rows if seconds > 0 else ():
        was = then.get(row.pid)
        if was is None or row.separations is None or was.separations is None:
            continue
        found[row.pid] = max(row.separations - was.separations, 0) / seconds
    return found


def _same_hub(
    before: UserEngine | None, now: UserEngine | None
) -> tuple[UserEngine, UserEngine] | None:
    if before is None or now is None or before.hub_pid != now.hub_pid:
        return None
    return before, now


def _separations(before: KernelEngine, now: KernelEngine) -> tuple[int | None, int | None]:
    return before.separations, now.separations


def _rate(pair: tuple[float | None, float | None] | None, seconds: float) -> float | None:
    if pair is None or pair[0] is None or pair[1] is None:
        return None
    return max(pair[1] - pair[0], 0) / seconds
