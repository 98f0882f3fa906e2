"""Tells in words and tables what ``frontier.py`` has measured."""

from __future__ import annotations

from typing import Any

from .equal_cost import BASE

LATE = 1.0
"""Seconds that a change may be late before figures are not to be compared."""
TELLS_APART = 0.01
"""GB s or seconds below which a figure counts as nothing."""


def show(told: dict[str, Any]) -> None:
    """The tables."""
    for workload, it in told["compared"].items():
        possible, goal = it["possible_gb_seconds"], it["goal"]
        print(f"{workload}: {possible:.1f} GB s could be saved in {told['seconds']:g} s")
        print(
            f"  {'':<15}{'saved':>12}{'processor':>12}{'a second of it':>16}{'at the end':>12}"
            f"{'saved / ' + BASE:>14}{'processor / ' + BASE:>18}"
        )
        for row in told["results"]:
            if row["workload"] != workload:
                continue
            saved, cpu = row["saved_byte_seconds"] / 1e9, row["cpu_seconds"]
            each = f"{saved / cpu:.1f} GB s" if cpu else "-"
            ratio = it["settings"][row["setting"]]
            print(
                f"  {row['setting']:<15}{saved:7.2f} GB s{cpu:10.2f} s{each:>16}"
                f"{row['saved_bytes'] / 1e6:9,.0f} MB{_times(ratio['times_saved'], saved):>14}"
                f"{_times(ratio['times_cpu'], cpu):>18}"
            )
        print(f"  at equal processor time (the goal is {goal:g} times what {BASE} saves):")
        for name, one in it["equal_cost"].items():
            print(f"    {name:<15}{verdict(one)}")
        print("  until a moment, the best of ours that has cost no more until then:")
        for row in it["over_time"]:
            own = row.get("best", {}).get("saved_gb_seconds")
            ours = f"{row['setting']}: {own:.2f} GB s" if own is not None else "none is as cheap"
            ratio_of_it = _times(row["times_saved"], own) if own is not None else ""
            print(
                f"    {row['seconds']:6.1f} s  {BASE}: {row['base']['saved_gb_seconds']:6.2f} GB s "
                f"for {row['base']['cpu_seconds']:.2f} s;  {ours}  {ratio_of_it}"
            )
    for row in told["results"]:
        where = f"{row['workload']}, {row['setting']}"
        for note in row["notes"]:
            print(f"{where}: {note}")
        if row["wrong_pages"] or row["checked"] < told["processes"]:
            print(f"{where}: {row['wrong_pages']} WRONG PAGES, {row['checked']} processes checked")
        if row["late_seconds"] > LATE:
            print(f"{where}: a change was {row['late_seconds']:.1f} s late: the host is busy")


def verdict(told: dict[str, float | None]) -> str:
    """In words: what ``equal`` has found."""
    if told["from_seconds"] is None:
        return f"costs more than {BASE} to the end"
    last, times = told["until_seconds"], told["times_saved"]
    goal = "the goal is NOT reached" if last is None else f"the goal is reached until {last:.1f} s"
    saved = f"{BASE} has saved nothing then" if times is None else f"{times:.2f} times then"
    return f"costs no more from {told['from_seconds']:.1f} s on: {saved}; {goal}"


def _times(ratio: float | None, own: float) -> str:
    """A ratio of GB s or seconds, of which ``own`` is the upper one; "-": nothing to nothing."""
    if ratio is None:
        return "infinite" if own >= TELLS_APART else "-"
    return f"{ratio:.2f}"
