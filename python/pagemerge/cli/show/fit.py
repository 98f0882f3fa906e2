"""Shows how many more processes fit (``scan --fit``): the answer, then what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemerge.cli.show import tables
from pagemerge.figures import duration, number, precise
from pagemerge.linux.text import decoded, plain

if TYPE_CHECKING:
    from rich.console import Console

    from pagemerge.cli.show.printed_forecast import FitFigures, LimitFigures, PlanFigures
    from pagemerge.estimate.fit import Fit, Plan
    from pagemerge.linux.room import Limit, Room

WITHOUT, KERNEL, USER, SAFE = "without merging", "kernel engine", "user engine", "safe"


def show(console: Console, result: Fit) -> None:
    """Print the answer, what one more process costs, what is left, and a row for each plan."""
    from rich.text import Text

    answer = Text("", style="bold")
    answer.append(f"{result.kernel.number:,} more like {_name(result)} fit with merging")
    answer.append(f", {result.apart.number:,} without", style="not bold")
    if result.safe.number < result.kernel.number:
        answer.append(f", and {result.safe.number:,} whatever they write", style="not bold")
    console.print(answer.append("."))
    tables.show(console, f"Each further one costs (average of {_looked_at(result)}):")
    tables.items(console, _costs(result))
    tables.show(console, "What is left for them:")
    tables.items(console, _left(result))
    console.print()
    _table(console, result)
    for note in _notes(result):
        tables.show(console, note)


def figures(result: Fit) -> FitFigures:
    """Return the forecast for JSON; keys name their units."""
    cost, room, now = result.cost, result.room, result.now
    return {
        "like": result.name,
        "processes_looked_at": result.like,
        "cost_bytes": {
            "without_merging": round(cost.apart_bytes),
            "kernel_engine": round(cost.kernel_bytes),
            "kernel_engine_most": round(result.most_kernel_bytes),
            "user_engine": round(cost.user_bytes),
            "unshared": round(cost.unshared_bytes),
        },
        "parts_bytes": {
            "private": round(cost.private_bytes),
            "zero": round(cost.zero_bytes),
            "own": round(cost.own_bytes),
            "huge": round(cost.huge_bytes),
            "tables_stacks_shared_memory": round(cost.other_bytes),
            "kernel_engine_records": round(cost.record_bytes),
            "user_engine_mappings": round(cost.mapping_bytes),
        },
        "available_bytes": room.available_bytes,
        "cgroup": None if room.limit is None else _limit_figures(room.limit),
        "left_bytes": room.left_bytes,
        "reserve_bytes": result.reserve_bytes,
        "unsharing_bytes_per_second": result.unsharing_bytes_per_second,
        "running_now_bytes": {
            "kernel_engine_would_save": now.kernel_bytes,
            "user_engine_would_save": now.user_bytes,
            "saved_before": now.saved_bytes,
        },
        "plans": {
            "without_merging": _plan_figures(result.apart),
            "kernel_engine": _plan_figures(result.kernel),
            "user_engine": _plan_figures(result.user),
            "safe": _plan_figures(result.safe),
        },
        "split_of_huge_page_frees_zero_pages": result.splits_free_zeros,
    }


def _limit_figures(limit: Limit) -> LimitFigures:
    return {
        "path": "/" + decoded(limit.path),
        "file": limit.file,
        "limit_bytes": limit.limit_bytes,
        "used_bytes": limit.used_bytes,
        "cache_bytes": limit.cache_bytes,
        "left_bytes": limit.left_bytes,
    }


def _plan_figures(plan: Plan) -> PlanFigures:
    seconds = plan.full_after_seconds
    return {
        "more": plan.number,
        "left_bytes": plan.left_bytes,
        "missing_bytes_if_all_unshares": plan.missing_bytes,
        "seconds_until_full": None if seconds is None else round(seconds, 3),
    }


def _costs(result: Fit) -> list[tuple[str, str]]:
    """List what one costs in each way, and the parts of that."""
    cost = result.cost
    found = [(precise(cost.apart_bytes), WITHOUT)]
    own = f"{precise(cost.own_bytes)} in pages that no other process has"
    records = f"{precise(cost.record_bytes)} for records of kernel KSM"
    found.append((precise(cost.kernel_bytes), f"with the {KERNEL}: {own}, {records}"))
    user = f"with the {USER}, at most in memory that programs mark as mergeable"
    if cost.mapping_bytes:
        user += f"; {precise(cost.mapping_bytes)} of it for mappings"
    found.append((precise(cost.user_bytes), user))
    if cost.unshared_bytes - cost.apart_bytes >= 1:
        found.append((precise(cost.unshared_bytes), "once it has written to all of its pages"))
    other = "page tables, stacks in the kernel and shared memory, in all of these"
    found.append((precise(cost.other_bytes), other))
    found.append((precise(cost.zero_bytes), "zero pages, which merging frees"))
    return found


def _left(result: Fit) -> list[tuple[str, str]]:
    found = [(precise(result.room.left_bytes), _whose(result.room))]
    if result.now.kernel_bytes:
        saves = "with merging: saved of the processes looked at (the user engine: at most "
        found.append(
            (precise(result.now.kernel_bytes), f"{saves}{precise(result.now.user_bytes)})")
        )
    if result.reserve_bytes:
        found.append((precise(-result.reserve_bytes), "kept in reserve"))
    return found


def _whose(room: Room) -> str:
    limit = room.limit
    if limit is None:
        return "available on this host (MemAvailable)"
    path = plain("/" + decoded(limit.path), 60)
    host = precise(room.available_bytes)
    return (
        f"below {limit.file} ({precise(limit.limit_bytes)}) of the cgroup {path}; "
        f"the host has {host} available"
    )


def _table(console: Console, result: Fit) -> None:
    plans = {
        WITHOUT: result.apart,
        KERNEL: result.kernel,
        USER: result.user,
        SAFE: result.safe,
    }
    columns = ["PLAN", "MORE", "LEFT", "MISSING AT WORST"]
    if result.unsharing_bytes_per_second:
        columns.append("FULL AFTER")
    rows = [[name, *_cells(plan)][: len(columns)] for name, plan in plans.items()]
    console.print(tables.fitted(rows, console.width, ("PLAN",), columns[1:], columns, ("LEFT",)))


def _cells(plan: Plan) -> list[str]:
    missing = precise(plan.missing_bytes) if plan.missing_bytes else "nothing"
    seconds = plan.full_after_seconds
    after = "-" if seconds is None else duration(seconds)
    return [f"{plan.number:,}", precise(plan.left_bytes), missing, after]


def _notes(result: Fit) -> list[str]:
    """List what the columns mean, and what the figures do not know."""
    kept = f", with {precise(result.reserve_bytes)} in reserve" if result.reserve_bytes else ""
    notes = [
        "MISSING AT WORST: what is missing if every process unshares all of its pages at once. "
        f"{SAFE}: the most that fit even then{kept}."
    ]
    if result.unsharing_bytes_per_second:
        rate = precise(result.unsharing_bytes_per_second)
        notes.append(f"FULL AFTER: if each of them unshares {rate} a second, from now on.")
    else:
        notes.append("How fast they unshare is not known: `pagemerge scan --watch` measures it.")
    if result.like == 1:
        notes.append(
            "Only one was looked at, so what two of its kind share is not known: start another, "
            "and look at both. With merging, at least as many fit as told here."
        )
    if result.cost.huge_bytes and result.cost.zero_bytes:
        notes.append(_about_splits(result))
    return notes


def _about_splits(result: Fit) -> str:
    counted = "Zero pages in huge pages count as freed because each engine frees them by itself"
    if result.splits_free_zeros is None:
        return f"{counted}; whether this kernel also does so when it splits a huge page is unknown."
    does = "also does so" if result.splits_free_zeros else "does not do so"
    return f"{counted}; this kernel {does} when it splits a huge page, which is not counted on."


def _looked_at(result: Fit) -> str:
    return f"{number(result.like, 'process', 'processes')} looked at"


def _name(result: Fit) -> str:
    return plain(result.name, 40)
