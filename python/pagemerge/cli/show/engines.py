"""What both engines do now, in words and as a table: for ``pagemerge status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pagemerge.cli.show import tables
from pagemerge.figures import duration, number, size
from pagemerge.linux.text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.watch.model import KernelEngine, Moment, Row, UserEngine
    from pagemerge.watch.rates import Rates

MOST = 40
"""Rows that are shown; JSON has all."""


def show(console: Console, moment: Moment, rates: Rates, no_hub: str, unsharing: Unsharing) -> None:
    """Print the answer, a line for each engine, the rows, and why some merge nothing."""
    tables.show(console, answer(moment))
    for line in engines(moment, rates, no_hub):
        tables.show(console, line)
    if not moment.rows:
        return
    console.print()
    ordered = sorted(moment.rows, key=lambda row: (-row.saved_bytes, -row.memory_bytes, row.pid))
    texts = ("pid", "name", "user", "engine")
    figures = ("memory", "merged", "saves", "unshares/s", "volatile", "cost", "mappings")
    order = (*texts, *figures)
    cells = [_cells(row, unsharing) for row in ordered[:MOST]]
    spare = ("mappings", "cost", "volatile", "unshares/s", "user", "engine")
    console.print(tables.fitted(cells, console.width, texts, figures, order, spare))
    if len(ordered) > MOST:
        tables.show(console, f"and {number(len(ordered) - MOST, 'process', 'processes')} more")
    for line in reasons(ordered):
        tables.show(console, line)


Unsharing = dict[int, float]
"""Pid -> merged pages that are written per second."""


def answer(moment: Moment) -> str:
    """Say in one sentence what is saved."""
    parts = [
        (engine.saved_bytes, name)
        for engine, name in ((moment.kernel, "kernel KSM"), (moment.user, "the user engine"))
        if engine is not None and engine.saved_bytes
    ]
    if not parts:
        return "Merging saves nothing now."
    total = size(sum(saved for saved, _ in parts))
    if len(parts) == 1:
        return f"Merging saves {total} now, all of it by {parts[0][1]}."
    each = " and ".join(f"{size(saved)} by {name}" for saved, name in parts)
    return f"Merging saves {total} now: {each}."


def engines(moment: Moment, rates: Rates, no_hub: str) -> list[str]:
    """Describe the state of each engine and what it costs now, in a line."""
    user = _user(moment.user, rates) if moment.user else f"User engine: {no_hub}."
    kernel = _kernel(moment.kernel, rates) if moment.kernel else "Kernel KSM: this Linux has none."
    return [user, kernel]


def _user(engine: UserEngine, rates: Rates) -> str:
    return (
        f"User engine: the hub (process {engine.hub_pid}, for {duration(engine.seconds)}) keeps "
        f"{number(engine.pages_shared, 'stable page')} for {number(engine.clients, 'client')}, at "
        f"{_cores(rates.user_cores)}; {_separations(rates.user_separations)}."
    )


def _kernel(engine: KernelEngine, rates: Rates) -> str:
    driver = engine.governor_pid
    who = f"driven by process {driver}" if driver else "no governor drives it"
    state = "ksmd runs" if engine.run == 1 else "ksmd is stopped"
    return (
        f"Kernel KSM: {state} ({who}), with {number(engine.pages_shared or 0, 'stable page')}, at "
        f"{_cores(rates.kernel_cores)}; {_separations(rates.kernel_separations)}."
    )


def _cores(share: float | None) -> str:
    return "an unknown cost" if share is None else f"{share:.1%} of a core"


def _separations(rate: float | None) -> str:
    if rate is None:
        return "how much unshares is not known"
    count = f"{rate:,.0f}"
    return (
        f"{count} page unshares per second" if count == "1" else f"{count} pages unshare per second"
    )


def _cells(row: Row, unsharing: Unsharing) -> list[str]:
    rate = unsharing.get(row.pid)
    return [
        str(row.pid),
        row.label,
        row.user,
        row.engine,
        size(row.memory_bytes),
        size(row.merged_bytes),
        size(row.saved_bytes),
        "-" if rate is None else f"{rate:,.0f}",
        _share(row.volatile_bytes, row.memory_bytes),
        "-" if row.agent_cores is None else f"{row.agent_cores:.1%}",
        f"{row.mappings:,} of {row.mappings_limit:,}" if row.mappings else "-",
    ]


def _share(part: int | None, whole: int) -> str:
    return "-" if part is None or whole <= 0 else f"{min(part / whole, 1.0):.0%}"


def reasons(rows: list[Row]) -> list[str]:
    """Say why rows merge nothing: one line for each reason, with those that it is true of."""
    whose: dict[str, list[Row]] = {}
    for row in rows:
        if row.why:
            whose.setdefault(row.why, []).append(row)
    found = []
    for why, these in whose.items():
        names = ", ".join(f"{row.pid} {plain(row.label)}" for row in these[:3])
        more = f" and {len(these) - 3:,} more" if len(these) > 3 else ""
        found.append(f"{names}{more}: {plain(why)}")
    return found


def figures(moment: Moment, rates: Rates, no_hub: str, unsharing: Unsharing) -> dict[str, Any]:
    """Return the object that ``--json`` prints."""
    from dataclasses import asdict

    import msgspec

    told: dict[str, Any] = msgspec.to_builtins(moment)
    rows = [{**row, "separations_per_second": unsharing.get(row["pid"])} for row in told["rows"]]
    return {**told, "rows": rows, "now": asdict(rates), "no_hub": no_hub or None}
