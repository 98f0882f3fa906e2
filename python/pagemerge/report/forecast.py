"""Forecasts: an estimate from a sample, how many more fit, and what compression would save."""

from __future__ import annotations

from dataclasses import dataclass

from pagemerge.figures import duration, number, precise
from pagemerge.report.given import Given, Room, page_size
from pagemerge.report.shapes import Bar, Bars, Section, bars, percent
from pagemerge.report.words import cut, part

PLANS = {
    "without_merging": "without merging",
    "kernel_engine": "with the kernel engine",
    "user_engine": "with the user engine",
    "safe": "whatever they write",
}
"""Plan -> its name for people."""
COSTS = {
    "without_merging": "without merging",
    "kernel_engine": "with the kernel engine",
    "user_engine": "with the user engine",
    "unshared": "if all of it unshares",
}
"""Cost of one more -> its name for people."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many more fit in one way."""

    name: str
    more: str
    left: str
    missing: str
    full_after: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the template draws of ``--fit``."""

    plans: tuple[Plan, ...]
    costs: Bars


def sampled(figures: Given, room: Room) -> Section | None:
    """Show the estimate of ``--sample`` with its interval."""
    found = figures.part("sample")
    total = found.part("total")
    looked_at = total.number("pages") * page_size(found)
    if not looked_at:
        return None
    low, value, high = _interval(total)
    confidence = found.number("confidence_percent") or 95
    words = (
        f"Merging would save about {precise(value)}: the true value lies between {precise(low)} "
        f"and {precise(high)} with a probability of {confidence:.0f}%.",
        f"{number(total.number('sampled_pages'), 'page')} of {precise(looked_at)} were drawn at "
        "random, and their copies counted among all pages.",
    )
    domains = sorted(found.parts("domains"), key=lambda it: -it.number("saveable_bytes"))
    shown = domains[: room.items] if len(domains) > 1 else []
    rows = [_estimate("all memory looked at", total, looked_at)]
    rows += [_estimate(cut(it.raw("domain"), room.name), it, looked_at) for it in shown]
    left = len(domains) - len(shown) if shown else 0
    more = f"Left out: {number(left, 'more domain')} that save less." if left else ""
    drawn = Bars("Estimated saving, of the memory looked at", tuple(rows), more)
    return Section("sample", "Estimate from a sample", words, drawn)


def _interval(one: Given) -> tuple[float, float, float]:
    value = one.number("saveable_bytes")
    low, high = one.known("saveable_bytes_low"), one.known("saveable_bytes_high")
    return value if low is None else low, value, value if high is None else high


def _estimate(label: str, one: Given, whole: float) -> Bar:
    low, value, high = _interval(one)
    ends = percent(low, whole), percent(high, whole)
    note = f"from {precise(low)} to {precise(high)}"
    return Bar(label, precise(value), percent(value, whole), note, "across", *ends)


def fit(figures: Given, room: Room) -> Section | None:
    """Say how many more processes fit, as ``--fit`` forecasts it."""
    found = figures.part("fit")
    plans = dict(found.part("plans").named())
    if not plans:
        return None
    counts = {name: plan.count("more") for name, plan in plans.items()}
    like = cut(found.raw("like"), room.name)
    told = [f"{counts[it]:,} {PLANS[it]}" for it in PLANS if it in counts]
    words = [f"This many more like {like} fit: {', '.join(told)}."] if told else []
    words.append(
        f"{precise(found.number('left_bytes'))} is left for them, with a reserve of "
        f"{precise(found.number('reserve_bytes'))}."
    )
    costs = found.part("cost_bytes")
    rows = [(name, costs.number(key), "") for key, name in COSTS.items() if key in costs]
    content = Forecast(
        tuple(_plan(PLANS[it], plans[it]) for it in PLANS if it in plans),
        bars("What one more costs", rows),
    )
    return Section("fit", "How many more fit", tuple(words), content)


def _plan(name: str, plan: Given) -> Plan:
    full, missing = plan.known("seconds_until_full"), plan.number("missing_bytes_if_all_unshares")
    return Plan(
        name,
        f"{plan.count('more'):,}",
        precise(plan.number("left_bytes")),
        precise(missing) if missing else "nothing",
        "never" if full is None else duration(full),
    )


def compress(figures: Given, room: Room) -> Section | None:
    """Compare merging, compression, and both, as ``--compress`` has measured it."""
    found = figures.part("compress")
    whole = found.number("looked_at_bytes")
    compressors = sorted(found.part("compressors").named())[: room.items]
    if not whole or not compressors:
        return None
    merging = found.number("merging_saves_bytes")
    rows = [Bar("merging", precise(merging), percent(merging, whole))]
    told = [f"merging saves {precise(merging)}"]
    for key, before in (("alone_bytes", ""), ("with_merging_bytes", "merging and ")):
        for name, figure in compressors:
            label = f"{before}{cut(name, room.name)}"
            rows.append(_way(label, figure.part(f"saves_{key}"), whole))
            told.append(f"{label} {rows[-1].value}")
    words = [f"Of {precise(whole)}, {', '.join(told)}."]
    near = found.part("near_duplicates_share_of_kept")
    if near:
        at_least = "At least " if near.is_true("at_least") else ""
        share = part(near.number("value"), 1)
        told_near = f"{at_least}{share} of the pages that merging keeps are nearly equal to another"
        words.append(f"{told_near}: three quarters of their bytes or more.")
    words.append("Compression saves only in memory that is not in use, because it is swapped out.")
    drawn = Bars("What each way would save, of the memory looked at", tuple(rows))
    return Section("compress", "Merging and compression", tuple(words), drawn)


def _way(label: str, saves: Given, whole: float) -> Bar:
    value, low, high = (saves.number(it) for it in ("value", "low", "high"))
    ends = (percent(low, whole), percent(high, whole)) if high > low else ("", "")
    note = f"from {precise(low)} to {precise(high)}" if high > low else ""
    return Bar(label, precise(value), percent(value, whole), note, "across", *ends)
