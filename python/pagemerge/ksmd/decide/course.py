"""What the governor remembers and how it calculates: pure functions on one snapshot."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pagemerge.ksmd.model import Goals, Snapshot
from pagemerge.linux.ksm import KsmCounters
from pagemerge.model import PAGE_SIZE

BATCH = 4096
"""Pages that ksmd scans at a time (pages_to_scan): about 10 ms, in which it reacts to nothing."""

GENTLE_BATCH = 256
"""The same under a latency budget: less than a millisecond."""

LONGEST_PAUSE = 1.0
"""The most seconds between two batches under a latency budget."""

TICK = 0.25
"""Seconds between two looks at the counters while ksmd runs or memory grows."""

NOTABLE = 16 << 20
NOTABLE_SHARE = 0.01
"""Bytes, and the share of all mergeable memory, below which a change does not count."""

CALM = 2.0
"""Seconds after which growing memory is looked at, though it still grows."""

DONE = 0.98
"""Share of the promised bytes that is enough: the rest changes, or is about to change."""

SCANS = 2
"""Full scans that ksmd needs to merge what it has never seen: the first notes checksums."""

PAGE_SECONDS = 3e-6
"""Processor time for a look at one page, until it has been measured."""

AGAIN = 4.0
SELDOM = 256.0
"""Seconds until the finder looks again at memory that did not merge though it would pay: at first,
and at most."""

SAMPLE = 1.0
LONGEST = 4.0
"""Seconds between two samples: at first, and if samples find nothing. A sample takes a few
milliseconds."""


@dataclass(frozen=True, slots=True)
class Course:
    """What the governor remembers from one decision to the next."""

    working: bool = False
    tokens: float = 0.0
    """Processor seconds that may be spent at once."""
    seconds: float = -1.0
    """When the last snapshot was taken; negative before the first."""
    spent: float = 0.0
    """Processor seconds of ksmd and governor, at the last snapshot."""
    resident: int = 0
    """Bytes of mergeable memory as of the last look, or less if some of it has gone."""
    growing: float = -1.0
    """Time since when mergeable memory has been growing; negative while it does not grow."""
    last_resident: int = 0
    look_after: float = 0.0
    """Time of the earliest next look: looks alone must not spend the budget."""
    page_seconds: float = PAGE_SECONDS
    period: float = SAMPLE
    """Seconds between two samples."""
    due: float = 0.0
    """Time of the next sample."""
    moving: bool = False
    """True if the last sample saw memory change: the next comes soon, to see if it still does."""
    wait: float = AGAIN
    """Seconds from the end of work until the finder looks again at memory that is left."""
    again: float = -1.0
    """Time of that look; negative if nothing is left that would pay."""
    stalled: float | None = None
    """``stalled_seconds`` of the last snapshot."""
    # While it works:
    pause: float = 0.0
    """Seconds between two batches, for the latency budget."""
    checking: bool = False
    """True if ksmd stands still, and the next look tells whether it is done."""
    poor: str = ""
    """Why another scan would not pay; empty if the work seems done."""
    begun: int = 0
    """Bytes that were merged when the work began."""
    promised: int = 0
    """Bytes that the work can save in total, by the finder."""
    left: int = 0
    """Bytes that could still be saved at the last look."""
    merged: int = 0
    """Bytes that were merged at the last look."""
    counted: int = 0
    """Bytes that were merged at the last look, by KSM's counters."""
    scans: int = 0
    """full_scans when the work began, or when the last yield was measured."""
    seen: int = 0
    """Full scans since the last look."""
    marked_counted: int = 0
    """Bytes that were merged, by KSM's counters, when the yield was last measured."""
    marked_spent: float = 0.0
    marked_scanned: int = 0


def saved_bytes(counters: KsmCounters) -> int:
    """Return the bytes that ksmd has saved by its own counters, as of its last scan."""
    return PAGE_SIZE * ((counters.pages_sharing or 0) + (counters.ksm_zero_pages or 0))


def account(course: Course, now: Snapshot, goals: Goals) -> Course:
    """Add tokens for the time that passed, subtract what was spent, and note how memory grew."""
    passed = max(now.seconds - course.seconds, 0.0) if course.seconds >= 0 else 0.0
    tokens = course.tokens + passed * share(now, goals) - (now.spent_seconds - course.spent)
    grew = now.resident_bytes - course.last_resident >= notable(now) / 4
    growing = course.growing
    if grew and growing < 0:
        growing = now.seconds
    elif not grew:
        growing = -1.0
    return replace(
        course,
        tokens=min(tokens, goals.burst_seconds),
        seconds=now.seconds,
        spent=now.spent_seconds,
        growing=growing,
        last_resident=now.resident_bytes,
        resident=min(course.resident, now.resident_bytes),
        look_after=max(course.look_after, now.seconds + now.look_seconds / share(now, goals)),
        stalled=now.stalled_seconds,
        pause=_pause(course, now, goals, passed),
    )


def _pause(course: Course, now: Snapshot, goals: Goals, passed: float) -> float:
    """Return the seconds between two batches: twice as long if others waited more than the latency
    budget allows since the last snapshot, half as long if not. ksmd always runs for the budget's
    part of the time: others also wait for each other.
    """
    if not goals.latency_percent or not course.working or passed <= 0:
        return course.pause if goals.latency_percent else 0.0
    allowed = goals.latency_percent / 100
    if course.stalled is None or now.stalled_seconds is None:
        waited = 1.0  # nobody can tell
    else:
        waited = (now.stalled_seconds - course.stalled) / passed
    if waited <= allowed:
        return course.pause / 2 if course.pause > 0.001 else 0.0
    longest = GENTLE_BATCH * course.page_seconds * (1 / allowed - 1)
    return min(max(2 * course.pause, 0.001), longest, LONGEST_PAUSE)


def news(course: Course, now: Snapshot) -> str:
    """Return, in words, how much memory is new since the last look; empty if it is too little."""
    new = now.resident_bytes - course.resident
    return f"{size(new)} of new memory" if new >= notable(now) else ""


def is_settled(course: Course, now: Snapshot) -> bool:
    """Return true if a look is worth it now. A look at growing memory tells little of what the
    memory will hold, but after ``CALM`` seconds of growth the look is due anyway."""
    grows = course.growing >= 0 and now.seconds - course.growing < CALM
    return not grows and now.seconds >= course.look_after


def looked(course: Course, now: Snapshot) -> Course:
    """Note what the finder has seen."""
    assert now.promised_bytes is not None
    counted = saved_bytes(now.counters)
    return replace(
        course,
        resident=now.resident_bytes,
        left=now.promised_bytes,
        merged=counted if now.merged_bytes is None else now.merged_bytes,
        counted=counted,
        seen=0,
    )


def cost(course: Course, now: Snapshot) -> float:
    """Return the processor seconds that ksmd needs to merge all that can be merged."""
    return SCANS * course.page_seconds * now.resident_bytes / PAGE_SIZE


def pays(course: Course, now: Snapshot, goals: Goals) -> bool:
    """Return true if the bytes left to save are worth the scans."""
    return course.left >= max(NOTABLE / 4, price(now, goals) * cost(course, now))


def gained(course: Course, now: Snapshot) -> int:
    """Return the bytes merged since the last look, by KSM's counters: too few rather than too many.

    ksmd takes memory that was freed or rewritten before off its counters within the first scans.
    """
    before = course.counted if course.seen < SCANS else course.merged
    return saved_bytes(now.counters) - before


def share(now: Snapshot, goals: Goals) -> float:
    """Return the share of one core that may be used over time; all of it if memory runs short."""
    return 1.0 if is_short(now, goals) else goals.cpu_percent / 100


def price(now: Snapshot, goals: Goals) -> float:
    """Return the bytes that a processor second must gain; a tenth of that if memory runs short."""
    return 100.0 * goals.price_bytes * (0.1 if is_short(now, goals) else 1.0)


def is_short(now: Snapshot, goals: Goals) -> bool:
    """Return true if the host runs short of memory: too little is available, or tasks wait for it
    (PSI)."""
    if now.pressure is not None and now.pressure >= goals.pressure_percent:
        return True
    if now.available_bytes is None or not now.total_bytes:
        return False
    return now.available_bytes < goals.available_percent / 100 * now.total_bytes


def missing(now: Snapshot, goals: Goals) -> int:
    """Return the bytes that the reserve would lack if every merged page were written at once; 0 if
    there is no reserve, or nothing would be missing."""
    if not goals.reserve_bytes or now.available_bytes is None:
        return 0
    return max(goals.reserve_bytes + saved_bytes(now.counters) - now.available_bytes, 0)


def notable(now: Snapshot) -> float:
    """Return the bytes from which on a change counts."""
    return max(NOTABLE, NOTABLE_SHARE * now.resident_bytes)


def size(count: float) -> str:
    """Return a number of bytes in words, in MB."""
    return f"{count / 1e6:,.0f} MB"
