"""``pagemerge status --check``: one line and an exit status, as monitoring plugins have them.

Source: the Monitoring Plugins Development Guidelines (output, performance data, return codes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemerge.figures import size
from pagemerge.watch.reserve import REACTION, State

if TYPE_CHECKING:
    from pagemerge.watch.model import Moment
    from pagemerge.watch.reserve import Reserve

EXIT: dict[State, int] = {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}


def check(moment: Moment, found: Reserve | None) -> tuple[str, int]:
    """Return the line and the exit status."""
    if found is None:
        return "PAGEMERGE UNKNOWN: this host does not say how much memory is available", 3
    if moment.user is None and (moment.kernel is None or not _works(moment)):
        return f"PAGEMERGE UNKNOWN: no hub answers, and ksmd is stopped | {_data(found)}", 3
    state = found.state
    return f"PAGEMERGE {state}: {_words(found)} | {_data(found)}", EXIT[state]


def _works(moment: Moment) -> bool:
    return bool(moment.kernel and (moment.kernel.run == 1 or moment.kernel.saved_bytes))


def _words(found: Reserve) -> str:
    saves = f"merging saves {size(found.saved_bytes)}, {size(found.available_bytes)} is available"
    wanted = f"the reserve of {size(found.wanted_bytes)}" if found.wanted_bytes else "memory"
    if found.state == "OK":
        return f"{saves}: {wanted} is safe even if every merged page is written"
    if found.state == "WARNING":
        lacks = size(found.wanted_bytes - found.at_worst_bytes)
        return f"{saves}: if every merged page were written, {wanted} would lack {lacks}"
    lacks = size(found.wanted_bytes - found.after_burst_bytes)
    return (
        f"{saves}: {REACTION:.0f} s of the fastest unsharing take {size(found.burst_bytes)}, and "
        f"{wanted} would lack {lacks}"
    )


def _data(found: Reserve) -> str:
    """Write performance data: label=value[unit];warning;critical;minimum."""
    critical = found.wanted_bytes + found.burst_bytes
    warning = found.wanted_bytes + found.saved_bytes
    return (
        f"saved={found.saved_bytes}B;;;0 "
        f"available={found.available_bytes}B;{warning}:;{critical}:;0 "
        f"burst={found.burst_bytes}B;;;0"
    )
