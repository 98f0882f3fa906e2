"""Decides when ksmd runs, and how fast: pure functions on one snapshot.

By itself ksmd scans for ever, at one speed. The governor lets it run for a reason: memory that is
new, or that has changed and is stable again, and that would pay for the merging, as the finder
says. Then ksmd runs as fast as its budget allows, until it seems done or the yield falls below the
price. Then ksmd stands still, and the finder looks again: only this look tells what is merged and
what is left, because KSM's counters still count memory that was freed or rewritten. If the memory
that is left pays, ksmd goes on.

Every decision is a function of a ``Course`` (what the governor remembers) and a ``Snapshot``, so
that a recorded trace can be played back.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pagemerge.ksmd.decide.course import (
    AGAIN,
    BATCH,
    DONE,
    GENTLE_BATCH,
    LONGEST,
    NOTABLE,
    SAMPLE,
    SCANS,
    SELDOM,
    TICK,
    Course,
    account,
    cost,
    gained,
    is_settled,
    looked,
    missing,
    news,
    notable,
    pays,
    price,
    saved_bytes,
    share,
    size,
)
from pagemerge.ksmd.model import Decision, Goals, Snapshot
from pagemerge.linux.knobs import Knobs


def govern(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, Decision]:
    """Decide what ksmd does from now on, what to look at next, and why."""
    first = course.seconds < 0
    if first:
        course = replace(
            course,
            tokens=goals.burst_seconds,
            spent=now.spent_seconds,
            due=now.seconds + SAMPLE,
        )
    course = account(course, now, goals)
    if lacks := missing(now, goals):
        told = f"the reserve would lack {size(lacks)} if all merged pages were written: no more"
        if course.working:
            return _stop(course, now, told)
        return course, _stand(now, told, wait=4 * TICK, topic="reserve")
    if course.working:
        return _work(course, now, goals)
    return _rest(course, now, goals)


def _rest(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, Decision]:
    """Decide, while ksmd stands still, whether something has happened that it should scan."""
    if now.processes == 0:
        told = "no process has mergeable memory"
        return course, _stand(now, told, wait=4 * TICK, topic="nobody")
    if now.promised_bytes is not None:
        return _weigh(course, now, goals)
    if new := news(course, now):
        if is_settled(course, now):
            return course, _stand(now, new, wait=0.0, look=True)
        return course, _stand(now, f"{new}, and more comes", wait=TICK)
    if now.changed_share is not None:
        return _changed(course, now)
    if 0 <= course.again <= now.seconds and now.seconds >= course.look_after:
        return course, _stand(now, f"{size(course.left)} were left", wait=0.0, look=True)
    if now.seconds >= course.due:
        return course, _stand(now, "time for a sample", wait=0.0, sample=True)
    return course, _stand(now, "nothing new", wait=min(2 * TICK, course.due - now.seconds))


def _changed(course: Course, now: Snapshot) -> tuple[Course, Decision]:
    """Decide, after a sample, whether enough memory has changed and has been stable since."""
    assert now.changed_share is not None
    changed = now.changed_share * now.resident_bytes
    moving = (now.moving_share or 0.0) * now.resident_bytes
    if changed >= notable(now) and now.seconds >= course.look_after:
        told = f"{size(changed)} have changed and stand still"
        return course, _stand(now, told, wait=0.0, look=True)
    if moving >= notable(now) and not course.moving:
        course = replace(course, moving=True, due=now.seconds + SAMPLE)
        return course, _stand(now, f"{size(moving)} are changing", wait=TICK)
    course = _rarer(course, now)
    if moving >= notable(now):
        told = f"{size(moving)} go on changing"
        return course, _stand(now, told, wait=TICK, topic="restless")
    return course, _stand(now, "nothing has changed", wait=TICK)


def _rarer(course: Course, now: Snapshot) -> Course:
    """Wait longer before the next sample, because the last samples led to nothing."""
    return replace(
        course,
        period=min(2 * course.period, LONGEST),
        due=now.seconds + course.period,
        moving=False,
    )


def _weigh(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, Decision]:
    """Decide, after a look, whether the bytes to save pay for the scans that this takes."""
    known = now.resident_bytes - course.resident < notable(now)
    course = looked(course, now)
    takes = max(cost(course, now), 0.1)  # anything less would read as nothing
    told = f"{size(course.left)} to save in about {takes:.1f} s of processor time"
    if not pays(course, now, goals):
        course = replace(_rarer(course, now), again=-1.0)
        told += ": not worth it"
        return course, _stand(now, told, wait=TICK, topic="little")
    course = replace(
        course,
        working=True,
        again=-1.0,
        begun=course.merged,
        promised=course.left,
        scans=now.counters.full_scans or 0,
        marked_counted=course.counted,
        marked_spent=now.spent_seconds,
        marked_scanned=now.counters.pages_scanned or 0,
    )
    return course, _run(course, now, goals, told, smart=not known)


def _work(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, Decision]:
    """Decide, while ksmd runs, whether it is done, or does not pay any more."""
    if now.processes == 0:
        return _stop(course, now, "the last process with mergeable memory has gone")
    if now.promised_bytes is not None:
        course = looked(course, now)
        # Memory that came meanwhile counts as promised, too.
        promised = max(course.promised, course.merged - course.begun + course.left)
        course = replace(course, promised=promised)
        if course.checking:
            return _check(course, now, goals)
    poor = ""
    if (now.counters.full_scans or 0) > course.scans:
        course, poor = _measure(course, now, goals)
    came = gained(course, now)
    if came >= DONE * course.left:
        return _ask(course, now)
    new = news(course, now)
    if new and is_settled(course, now):
        return course, _run(course, now, goals, f"{new} meanwhile", look=True)
    if poor and not new:
        return _ask(course, now, poor)
    return course, _run(course, now, goals, f"{size(course.left - came)} to go")


def _measure(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, str]:
    """Measure a scan that is over: its cost for each page, and why another scan would not pay, if
    that is so."""
    scans = now.counters.full_scans or 0
    spent = now.spent_seconds - course.marked_spent
    pages = (now.counters.pages_scanned or 0) - course.marked_scanned
    counted = saved_bytes(now.counters)
    came = counted - course.marked_counted
    seen = course.seen + scans - course.scans
    poor = ""
    # The scan that ran when the work began does not count: it had already passed some memory. And
    # until ksmd has scanned everything, it still takes memory freed before off its counters.
    if seen > SCANS and came < price(now, goals) * spent:
        poor = f"the last scan added {size(max(came, 0))} for {spent:.1f} s of processor time"
    course = replace(
        course,
        scans=scans,
        seen=seen,
        marked_counted=counted,
        marked_spent=now.spent_seconds,
        marked_scanned=now.counters.pages_scanned or 0,
        page_seconds=spent / pages if pages > BATCH and spent > 0 else course.page_seconds,
    )
    return course, poor


def _ask(course: Course, now: Snapshot, poor: str = "") -> tuple[Course, Decision]:
    """Let ksmd stand still while the finder checks whether it is done."""
    course = replace(course, checking=True, poor=poor)
    return course, _stand(now, poor or "it seems done", wait=0.0, look=True)


def _check(course: Course, now: Snapshot, goals: Goals) -> tuple[Course, Decision]:
    """Decide, after a look, whether the work ends, and say what is merged if it does."""
    poor, course = course.poor, replace(course, checking=False)
    worth = pays(course, now, goals)
    merged, left = size(course.merged), size(course.left)
    # smart_scan passes over pages that did not merge before: they get one more chance without it.
    if worth and not (poor and now.knobs.smart_scan != 1):
        return course, _run(course, now, goals, f"{merged} are merged, {left} left", smart=False)
    saved, near = (
        max(course.merged - course.begun, 0),
        max((1 - DONE) * course.promised, NOTABLE / 4),
    )
    told = f"saved {size(saved)} of {size(course.promised)}; {merged} are merged now, "
    if course.promised - saved <= near:
        told = f"saved {size(saved)}, as promised; {merged} are merged now"
    elif course.left <= near:
        told += "and the rest has gone"
    else:
        told += f"and {left} left: {f'{poor}, too little' if poor else 'not worth it'}"
    if poor and worth:
        # The memory that is left changes, or cannot be merged: look less and less often.
        again, wait = now.seconds + course.wait, min(2 * course.wait, SELDOM)
        course = _rarer(replace(course, again=again, wait=wait), now)
    else:
        course = replace(course, period=SAMPLE, again=-1.0, wait=AGAIN)
    return _stop(course, now, told)


def _stop(course: Course, now: Snapshot, reason: str) -> tuple[Course, Decision]:
    course = replace(
        course,
        working=False,
        checking=False,
        due=now.seconds + course.period,
        moving=False,
    )
    return course, _stand(now, reason, wait=TICK, topic="done")


def _stand(
    now: Snapshot,
    reason: str,
    *,
    wait: float,
    sample: bool = False,
    look: bool = False,
    topic: str = "",
) -> Decision:
    """Return the decision that ksmd stands still; merged pages stay merged."""
    run = 0 if now.knobs.run == 1 else None
    return Decision(Knobs(run=run), reason, wait, sample=sample, look=look, topic=topic)


def _run(
    course: Course,
    now: Snapshot,
    goals: Goals,
    reason: str,
    *,
    look: bool = False,
    smart: bool | None = None,
) -> Decision:
    """Return the decision that ksmd runs as fast as it may: at full speed while there are tokens,
    then at its share of a core.

    smart_scan passes over memory that was seen before and has changed, for up to eight scans: so it
    is off for such memory, and on if only new memory counts.
    """
    pages = GENTLE_BATCH if goals.latency_percent else BATCH
    sleep = math.ceil(1000 * course.pause)
    if course.tokens <= 0:
        batch = pages * course.page_seconds
        pace = round(1000 * batch * (1 / share(now, goals) - 1)) + 1
        sleep = min(max(sleep, pace), 60_000)
        reason += ", at the pace of its budget"
    wanted = Knobs(
        run=1,
        pages_to_scan=pages,
        sleep_millisecs=sleep,
        use_zero_pages=1,
        smart_scan=None if smart is None else int(smart),
        merge_across_nodes=None if now.counters.pages_shared else goals.merge_across_nodes,
        advisor_mode="none",
    )
    wait = 0.0 if look else TICK
    return Decision(_changes(wanted, now.knobs), reason, wait, look=look)


def _changes(wanted: Knobs, have: Knobs) -> Knobs:
    """Return those of the wanted knobs that this kernel has, and that have another value now."""
    fields = {}
    for name in Knobs.__slots__:
        value, old = getattr(wanted, name), getattr(have, name)
        fields[name] = value if value is not None and old is not None and old != value else None
    return Knobs(**fields)
