"""When ksmd runs, and how fast: pure functions on what is known at one moment.

ksmd by itself scans for ever, at one speed. The governor has it run for something: memory that is
new, or that has changed and stands still again, of which the finder says that merging it would
pay. ksmd then runs as fast as its budget lets it, until what was promised is there or the yield
falls below the price, and stands still otherwise. What is merged stays merged.

Every decision is a function of a ``Course`` (what the governor remembers) and a ``Snapshot``, so
that a recorded trace can be played back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pagemerge.model import PAGE_SIZE, Decision, Goals, Knobs, KsmCounters, Snapshot

BATCH = 4096
"""Pages that ksmd scans at a time (pages_to_scan): some 10 ms. It answers to nobody meanwhile."""

TICK = 0.25
"""Seconds between two looks at the counters while ksmd runs or memory grows."""

NOTABLE = 16 << 20
NOTABLE_SHARE = 0.01
"""Bytes, and the share of all mergeable memory, below which nothing is news."""

CALM = 2.0
"""Seconds that memory may go on growing before it is looked at all the same."""

DONE = 0.97
"""Share of what was promised that is enough: the rest changes, or is about to."""

SCANS = 2
"""Full scans that ksmd needs to merge what it has never seen: the first notes checksums."""

PAGE_SECONDS = 3e-6
"""Processor time for a look at one page, until it has been measured."""

SAMPLE = 1.0
LONGEST = 4.0
"""Seconds between two samples: at first, and when nothing ever comes of it. One takes a few
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
    """Processor seconds of ksmd and governor, as of then."""
    resident: int = 0
    """Bytes of mergeable memory as of the last look, or less if some of it has gone."""
    growing: float = -1.0
    """Since when it has been seen to grow; negative while it does not."""
    last_resident: int = 0
    look_after: float = 0.0
    """Until then it is not looked again: looks alone must not spend the budget."""
    saved: int = 0
    """Bytes saved, as ksmd counts them. It counts what was rewritten since, or has gone with its
    process, until it comes by again: so while it stands, a loss is not seen here."""
    page_seconds: float = PAGE_SECONDS
    period: float = SAMPLE
    """Seconds between two samples."""
    due: float = 0.0
    """When the next is."""
    moving: bool = False
    """The last sample saw memory change: the next one comes soon, to see whether it still does."""
    # While it works:
    promised: int = 0
    """Bytes that were to be saved, from the beginning on."""
    gained: int = 0
    """Bytes that were, since then; what was lost meanwhile is not taken off."""
    scans: int = 0
    """full_scans when the work began, or when the last yield was measured."""
    seen: int = 0
    """Full scans since the work began, or since it was last looked."""
    marked_gained: int = 0
    """Bytes gained when the yield was last measured."""
    marked_spent: float = 0.0
    marked_scanned: int = 0


def saved_bytes(counters: KsmCounters) -> int:
    """Bytes that ksmd has saved so far, its own records not counted."""
    return PAGE_SIZE * ((counters.pages_sharing or 0) + (counters.ksm_zero_pages or 0))


def govern(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, Decision]:
    """What ksmd shall do from now on, what to look at next, and why."""
    first = course.seconds < 0
    if first:
        course = replace(
            course,
            tokens=goals.burst_seconds,
            spent=now.spent_seconds,
            saved=saved_bytes(now.counters),
            due=now.seconds + SAMPLE,
        )
    course = _account(course, now, goals)
    if course.working:
        return _work(course, now, goals)
    return _rest(course, now, goals)


def _account(course: Course, now: Snapshot, goals: Goals) -> Course:
    """Fill the bucket, take out what was spent, and note how memory has grown."""
    passed = max(now.seconds - course.seconds, 0.0) if course.seconds >= 0 else 0.0
    tokens = course.tokens + passed * _share(now, goals) - (now.spent_seconds - course.spent)
    saved = saved_bytes(now.counters)
    grew = now.resident_bytes - course.last_resident >= _notable(now) / 4
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
        saved=saved,
        gained=course.gained + max(saved - course.saved, 0),
        resident=min(course.resident, now.resident_bytes),
        look_after=max(course.look_after, now.seconds + now.look_seconds / _share(now, goals)),
    )


def _rest(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, Decision]:
    """ksmd stands: has anything happened that it should see?"""
    if now.processes == 0:
        return course, _stand(now, "no process has mergeable memory", wait=4 * TICK)
    if now.promised_bytes is not None:
        return _weigh(course, now, goals)
    if news := _news(course, now):
        if _is_settled(course, now):
            return course, _stand(now, news, wait=0.0, look=True)
        return course, _stand(now, f"{news}, and more comes", wait=TICK)
    if now.changed_share is not None:
        return _changed(course, now)
    if now.seconds >= course.due:
        return course, _stand(now, "time for a sample", wait=0.0, sample=True)
    return course, _stand(now, "nothing new", wait=min(2 * TICK, course.due - now.seconds))


def _news(course: Course, now: Snapshot) -> str:
    """Memory that was not there at the last look, in words; empty if there is none to speak of."""
    new = now.resident_bytes - course.resident
    return f"{_size(new)} of new memory" if new >= _notable(now) else ""


def _is_settled(course: Course, now: Snapshot) -> bool:
    """Is it worth a look? While memory grows it tells little of what it will hold; not for ever."""
    grows = course.growing >= 0 and now.seconds - course.growing < CALM
    return not grows and now.seconds >= course.look_after


def _changed(course: Course, now: Snapshot) -> tuple[Course, Decision]:
    """A sample was taken: is there enough that changed, and stands still since?"""
    assert now.changed_share is not None
    changed = now.changed_share * now.resident_bytes
    moving = (now.moving_share or 0.0) * now.resident_bytes
    if changed >= _notable(now) and now.seconds >= course.look_after:
        told = f"{_size(changed)} have changed and stand still"
        return course, _stand(now, told, wait=0.0, look=True)
    if moving >= _notable(now) and not course.moving:
        course = replace(course, moving=True, due=now.seconds + SAMPLE)
        return course, _stand(now, f"{_size(moving)} are changing", wait=TICK)
    course = _rarer(course, now)
    told = f"{_size(moving)} go on changing" if moving >= _notable(now) else "nothing has changed"
    return course, _stand(now, told, wait=TICK)


def _rarer(course: Course, now: Snapshot) -> Course:
    """Nothing came of the last samples: more time passes before the next."""
    return replace(
        course,
        period=min(2 * course.period, LONGEST),
        due=now.seconds + course.period,
        moving=False,
    )


def _weigh(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, Decision]:
    """The finder has looked: does what it promises pay for the scans it takes?"""
    assert now.promised_bytes is not None
    promised = now.promised_bytes
    known = now.resident_bytes - course.resident < _notable(now)
    course = replace(course, resident=now.resident_bytes)
    cost = SCANS * course.page_seconds * now.resident_bytes / PAGE_SIZE
    told = f"{_size(promised)} to save in some {cost:.1f} s of processor time"
    if promised < max(NOTABLE / 4, _price(now, goals) * cost):
        course = _rarer(course, now)
        return course, _stand(now, f"{told}: not worth it", wait=TICK)
    course = replace(
        course,
        working=True,
        promised=promised,
        gained=0,
        scans=now.counters.full_scans or 0,
        seen=0,
        marked_gained=0,
        marked_spent=now.spent_seconds,
        marked_scanned=now.counters.pages_scanned or 0,
    )
    return course, _run(course, now, goals, told, smart=not known)


def _work(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, Decision]:
    """ksmd runs: is it done, or does it not pay any more?"""
    if now.processes == 0:
        return _stop(course, now, "the last process with mergeable memory has gone")
    if now.promised_bytes is not None:  # of what came meanwhile
        course = replace(
            course,
            promised=course.gained + now.promised_bytes,
            resident=now.resident_bytes,
            seen=0,
        )
    if course.gained >= DONE * course.promised:
        course = replace(course, period=SAMPLE)
        return _stop(course, now, f"saved {_size(course.gained)}, as promised")
    news = _news(course, now)
    if news and _is_settled(course, now):
        return course, _run(course, now, goals, f"{news} meanwhile", look=True)
    if (now.counters.full_scans or 0) > course.scans:
        course, poor = _measure(course, now, goals)
        if poor and not news:
            return _stop(course, now, poor)
    return course, _run(course, now, goals, f"{_size(course.promised - course.gained)} to go")


def _measure(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, str]:
    """A scan is over: what it has cost a page, and why it is not worth another, if it is not."""
    scans = now.counters.full_scans or 0
    spent = now.spent_seconds - course.marked_spent
    pages = (now.counters.pages_scanned or 0) - course.marked_scanned
    gained = course.gained - course.marked_gained
    seen = course.seen + scans - course.scans
    poor = ""
    # The scan that ran when the work began counts for nothing: it had passed some by.
    if seen > SCANS and gained < _price(now, goals) * spent:
        poor = f"a scan saved {_size(gained)} for {spent:.1f} s of processor time: too little"
        if course.gained < course.promised / 2:
            # What was promised does not stand still: ask less often.
            course = _rarer(course, now)
    course = replace(
        course,
        scans=scans,
        seen=seen,
        marked_gained=course.gained,
        marked_spent=now.spent_seconds,
        marked_scanned=now.counters.pages_scanned or 0,
        page_seconds=spent / pages if pages > BATCH and spent > 0 else course.page_seconds,
    )
    return course, poor


def _stop(course: Course, now: Snapshot, reason: str) -> tuple[Course, Decision]:
    course = replace(
        course,
        working=False,
        due=now.seconds + course.period,
        moving=False,
    )
    return course, _stand(now, reason, wait=TICK)


def _stand(
    now: Snapshot,
    reason: str,
    *,
    wait: float,
    sample: bool = False,
    look: bool = False,
) -> Decision:
    """ksmd stands; what is merged stays so."""
    run = 0 if now.knobs.run == 1 else None
    return Decision(Knobs(run=run), reason, wait, sample=sample, look=look)


def _run(
    course: Course,
    now: Snapshot,
    goals: Goals,
    reason: str,
    *,
    look: bool = False,
    smart: bool | None = None,
) -> Decision:
    """ksmd runs as fast as it may: at once while there are tokens, at its share of a core after.

    Memory that was seen before and has changed is passed over by smart_scan for up to eight scans:
    it is off then, and on where only new memory counts.
    """
    sleep = 0
    if course.tokens <= 0:
        batch = BATCH * course.page_seconds
        sleep = min(round(1000 * batch * (1 / _share(now, goals) - 1)) + 1, 60_000)
        reason += ", at the pace of its budget"
    wanted = Knobs(
        run=1,
        pages_to_scan=BATCH,
        sleep_millisecs=sleep,
        use_zero_pages=1,
        smart_scan=None if smart is None else int(smart),
        merge_across_nodes=None if now.counters.pages_shared else goals.merge_across_nodes,
        advisor_mode="none",
    )
    wait = 0.0 if look else TICK
    return Decision(_changes(wanted, now.knobs), reason, wait, look=look)


def _changes(wanted: Knobs, have: Knobs) -> Knobs:
    """Those of the wanted knobs that this kernel has, and that are not so already."""
    fields = {}
    for name in Knobs.__slots__:
        value, old = getattr(wanted, name), getattr(have, name)
        fields[name] = value if value is not None and old is not None and old != value else None
    return Knobs(**fields)


def _share(now: Snapshot, goals: Goals) -> float:
    """Of one core, that may be used over time; all of it when memory runs short."""
    return 1.0 if is_short(now, goals) else goals.cpu_percent / 100


def _price(now: Snapshot, goals: Goals) -> float:
    """Bytes that a processor second must gain; a tenth of it when memory runs short."""
    return 100.0 * goals.price_bytes * (0.1 if is_short(now, goals) else 1.0)


def is_short(now: Snapshot, goals: Goals) -> bool:
    """Does this host run short of memory, by what is available or by who waits for it (PSI)?"""
    if now.pressure is not None and now.pressure >= goals.pressure_percent:
        return True
    if now.available_bytes is None or not now.total_bytes:
        return False
    return now.available_bytes < goals.available_percent / 100 * now.total_bytes


def _notable(now: Snapshot) -> float:
    return max(NOTABLE, NOTABLE_SHARE * now.resident_bytes)


def _size(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
