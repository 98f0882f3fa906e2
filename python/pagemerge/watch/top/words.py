"""What the view says in sentences: the answer, the engines' state, why a line merges nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pagemerge.figures import number, precise, size
from pagemerge.linux.text import plain
from pagemerge.watch.model import Decision, KernelEngine, Moment, Row
from pagemerge.watch.top.lines import Line
from pagemerge.watch.top.recent import Recent

LONGEST = 400
"""Characters of a reason that are shown: reasons quote names."""


class State(NamedTuple):
    """How an engine is."""

    word: str
    """running | paused | off."""
    text: str
    """What it does, or why it merges nothing."""


def answer(moment: Moment) -> str:
    """Say in one sentence what merging saves on this host."""
    engines = (("hub", moment.user), ("ksmd", moment.kernel))
    parts = [f"{name} {precise(it.saved_bytes)}" for name, it in engines if it and it.saved_bytes]
    if not parts:
        return "Merging saves nothing at the moment."
    merging = sum(row.merged_bytes > 0 for row in moment.rows)
    where = number(merging, "process", "processes")
    return f"Merging saves {precise(moment.saved_bytes)} in {where} ({', '.join(parts)})."


def memory(moment: Moment) -> str:
    """Say in one sentence how much memory of the host is in use."""
    host = moment.host
    if host.available_bytes is None:
        return f"The host has {size(host.total_bytes)} of memory."
    used = size(max(host.total_bytes - host.available_bytes, 0))
    told = f"{used} of {size(host.total_bytes)} of the host's memory are in use"
    if host.pressure_percent is None:
        return f"{told}."
    return f"{told}; processes wait for memory {host.pressure_percent:.1f}% of the time."


def user_engine(recent: Recent) -> State:
    """Say how the hub is, and why it merges nothing if that is so."""
    hub = recent.moment.user if recent.moment else None
    if hub is None:
        return State("off", "no hub runs; `pagemerge run -- COMMAND` starts one")
    if not hub.clients:
        return State("running", "no clients; start a program with `pagemerge run -- COMMAND`")
    who = number(hub.clients, "client")
    cost = f"takes {size(hub.store_bytes + hub.metadata_bytes)}"
    if (share := recent.rates.user_cores) is not None:
        cost += f", {share:.1%} of a core"
    if hub.saved_bytes:
        return State("running", f"{size(hub.saved_bytes)} saved for {who}; {cost}")
    why = _seen(hub.pages_unshared)
    if hub.pages_shared:
        why = f"none of the {number(hub.pages_shared, 'stable page')} has a second user"
    return State("running", f"nothing merges for {who}: {why}; {cost}")


def kernel_engine(recent: Recent) -> State:
    """Say how ksmd is, and why it merges nothing if that is so."""
    engine = recent.moment.kernel if recent.moment else None
    if engine is None:
        return State("off", "this kernel has no KSM")
    saved = f"{size(engine.saved_bytes)} saved" if engine.saved_bytes else "nothing merges"
    if engine.run == 2:
        return State("off", "run is 2: ksmd has separated all pages, and merges none")
    if stands := engine.standstill:
        return _standing(engine, saved, stands)
    told = f"{saved}{_why_not(engine, recent)}"
    if (share := recent.rates.kernel_cores) is not None:
        told += f"; takes {share:.1%} of a core"
    if copies := recent.rates.kernel_separations:
        told += f"; {rate(copies)} pages/s unshare"
    return State("running", f"{told}{_pace(engine)}")


def details(line: Line, recent: Recent) -> list[str]:
    """Describe the selected line: what it is, its figures, and why it merges nothing."""
    told = reasons(line, recent)
    if line.pid is not None:
        word = "Nothing of it merges" if line.merges_nothing else "Note"
        told = [f"{word}: {reason}" for reason in told]
    return [_identity(line), _figures(line), *told]


def reasons(line: Line, recent: Recent) -> list[str]:
    """Say why processes of a line merge nothing, with the reason that most of them have first."""
    silent = [row for row in line.rows if not row.merged_bytes]
    if len(line.rows) == 1:
        why = _why(line.rows[0]) or (_default(silent[0], recent) if silent else "")
        return [f"{why}."] if why else []
    counted = Counter(_why(row) or _default(row, recent) for row in silent)
    return [
        f"{count} of {len(line.rows)} processes merge nothing: {reason}."
        for reason, count in counted.most_common()
    ]


def silent(lines: Sequence[Line], recent: Recent) -> list[tuple[str, str]]:
    """List the reasons why lines merge nothing, each with the lines that it is true of."""
    whose: dict[str, list[str]] = {}
    for line in lines:
        name = line.name if line.pid is None else f"{line.pid} {line.name}"
        for reason in reasons(line, recent):
            whose.setdefault(reason, []).append(name)
    told = []
    for reason, names in whose.items():
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        told.append((", ".join(names[:3]) + more, reason))
    return told


def decided(one: Decision) -> str:
    """Write a decision of the governor: why, and what it set."""
    knobs = ", ".join(f"{plain(str(k), 40)}={plain(str(v), 40)}" for k, v in one.knobs.items())
    told = plain(one.reason, LONGEST)
    return f"{told}: {knobs}" if knobs else told


def no_decisions(moment: Moment) -> str:
    """Say why there are no decisions to show."""
    if moment.kernel is None or moment.kernel.governor_pid is None:
        return "No governor runs. `pagemerge daemon --engine kernel` starts one."
    return "The governor has decided nothing new since this view was started."


def clock(seconds: float) -> str:
    """Write a Unix time as a local time of the day."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def rate(value: float | None) -> str:
    """Write pages per second."""
    if value is None:
        return "-"
    return f"{value:.1f}" if 0 < value < 9.95 else f"{value:,.0f}"


def short(count: int) -> str:
    """Write bytes for a narrow column."""
    return size(count) if count else "0"


def percent(share: float | None) -> str:
    """Write a part of 1 in percent."""
    if share is None:
        return "-"
    return "<1%" if 0 < share < 0.01 else f"{share:.0%}"


def cores(share: float | None) -> str:
    """Write processor time, a part of one core, in percent."""
    return "-" if share is None else f"{share:.1%}"


def _identity(line: Line) -> str:
    row = line.rows[0]
    if len(line.rows) > 1:
        pids = ", ".join(str(one.pid) for one in line.rows[:5])
        more = f" and {len(line.rows) - 5} more" if len(line.rows) > 5 else ""
        return f"{len(line.rows)} processes of {line.name}: pids {pids}{more}."
    engine = f"domain {plain(row.domain, 60)}" if row.engine == "user" else "kernel KSM"
    told = f"Process {row.pid} ({plain(row.name, 40)}) of {plain(row.user, 40)}, {engine}"
    names = (("guest", row.guest), ("unit", row.unit))
    return ", ".join([told, *(f"{what} {plain(name, 80)}" for what, name in names if name)]) + "."


def _figures(line: Line) -> str:
    saved, merged, has = (
        size(count) for count in (line.saved_bytes, line.merged_bytes, line.memory_bytes)
    )
    told = f"{merged} of {has} merged, which saves {saved}"
    if line.merges_nothing:
        told = f"None of {has} merged"
    if line.unsharing is not None:
        told += f"; {rate(line.unsharing)} pages/s unshare"
    nearest = max(line.rows, key=lambda row: row.mappings / max(row.mappings_limit, 1))
    if nearest.mappings and nearest.mappings_limit:
        told += f"; {nearest.mappings:,} of {nearest.mappings_limit:,} mappings"
    return f"{told}."


def _why(row: Row) -> str:
    return plain(row.why, LONGEST).rstrip(".")


def _default(row: Row, recent: Recent) -> str:
    """Say what is known of a process that merges nothing and has no reason of its own."""
    moment = recent.moment
    if row.engine == "kernel" and moment and moment.kernel and moment.kernel.run != 1:
        return "ksmd is stopped"
    if not row.memory_bytes:
        return "it has no memory that could be merged"
    return "no page of it equals another one so far"


def _standing(engine: KernelEngine, saved: str, why: str) -> State:
    if engine.governor_pid is not None and engine.run == 0:
        return State("paused", f"{saved}; the governor (pid {engine.governor_pid}) lets ksmd rest")
    if engine.run is None:
        return State("off", "the state of ksmd cannot be read here")
    word = "off" if not engine.saved_bytes else "paused"
    return State(word, f"{saved}; {why}; `pagemerge daemon --engine kernel` starts it")


def _why_not(engine: KernelEngine, recent: Recent) -> str:
    if engine.saved_bytes:
        return ""
    rows: Iterable[Row] = recent.moment.rows if recent.moment else ()
    if not any(row.engine == "kernel" for row in rows):
        return ": no process has mergeable memory, `pagemerge attach PID` marks it"
    return f": {_seen(engine.pages_unshared)}"


def _seen(unshared: int | None) -> str:
    if not unshared:
        return "no pages were looked at yet"
    return f"all {number(unshared, 'page')} that were looked at are unique"


def _pace(engine: KernelEngine) -> str:
    """Say how fast ksmd scans, if no governor sets that anew all the time."""
    if engine.governor_pid is not None:
        return ""
    if engine.pages_to_scan is None or not engine.sleep_millisecs:
        return "; no governor"
    pages = number(engine.pages_to_scan, "page")
    return f"; no governor: {pages} every {engine.sleep_millisecs} ms"
