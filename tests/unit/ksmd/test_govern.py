"""What the governor decides on what it knows: made-up moments, and traces of real hosts."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.ksmd.decide.course import (
    AGAIN,
    BATCH,
    CALM,
    GENTLE_BATCH,
    LONGEST,
    Course,
    is_short,
    saved_bytes,
)
from pagemerge.ksmd.decide.govern import govern
from pagemerge.ksmd.governor import Step, changed
from pagemerge.ksmd.model import Decision, Goals, Snapshot
from pagemerge.linux.knobs import Knobs
from pagemerge.linux.ksm import KsmCounters

MB = 1_000_000
GOALS = Goals()
STANDS = Knobs(
    run=0,
    pages_to_scan=100,
    sleep_millisecs=20,
    use_zero_pages=0,
    smart_scan=1,
    advisor_mode="none",
)
TRACES = sorted((Path(__file__).parent / "traces").glob("*.jsonl.gz"))
"""See ``tests/support/tracing.py``."""
GOALS_OF = {"poor": Goals(cpu_percent=2, burst_seconds=0.1, price_bytes=1)}


class Host:
    """Moments one after the other, and what is decided; the knobs follow the decisions."""

    def __init__(self, goals: Goals = GOALS) -> None:
        self.goals = goals
        self.course = Course()
        self.now = Snapshot(0.0, STANDS, KsmCounters(0, 0, 0, 0, ksm_zero_pages=0), 0.0, 0, 0)
        self.decision = Decision(Knobs(), "", 0.0)

    def turn(self, seconds: float = 0.25, **changes: object) -> Decision:
        """Time passes, some of the snapshot changes, and it is decided anew."""
        passing = {
            "changed_share": None,
            "moving_share": None,
            "promised_bytes": None,
            "merged_bytes": None,
            "look_seconds": 0.0,
        }
        self.now = replace(
            self.now,
            seconds=self.now.seconds + seconds,
            **{**passing, **changes},  # type: ignore[arg-type]
        )
        self.course, self.decision = govern(self.course, self.now, self.goals)
        self.now = replace(self.now, knobs=replace(self.now.knobs, **changed(self.decision.knobs)))  # type: ignore[arg-type]
        return self.decision

    def counters(self, **changes: int) -> KsmCounters:
        return replace(self.now.counters, **changes)

    @property
    def runs(self) -> bool:
        return self.now.knobs.run == 1

    def work(self, promised: int = 400 * MB) -> None:
        """1 GB is there, and a part of it can be saved."""
        self.turn(processes=4, resident_bytes=1000 * MB)
        self.turn(seconds=1)
        assert self.decision.look
        self.turn(promised_bytes=promised, merged_bytes=0, look_seconds=0.1)
        assert self.runs

    def scan(self, times: int = 1, **changes: int) -> Decision:
        """ksmd has scanned everything, and its counters have changed."""
        for _ in range(times):
            old, spent = self.now.counters, self.now.spent_seconds + 1.0
            counted = {
                "full_scans": (old.full_scans or 0) + 1,
                "pages_scanned": (old.pages_scanned or 0) + 244_000,
            }
            self.turn(counters=self.counters(**counted, **changes), spent_seconds=spent)
        return self.decision

    def looked(self, left: int, merged: int) -> Decision:
        """ksmd stands, and the finder has looked whether it is done."""
        assert self.decision.look
        assert not self.runs
        return self.turn(promised_bytes=left, merged_bytes=merged)

    def done(self) -> None:
        """400 MB of 1 GB are merged, as promised."""
        self.work(400 * MB)
        self.turn(counters=self.counters(pages_sharing=98_000))
        self.looked(0, 400 * MB)


def test_nothing_happens_where_nothing_is_mergeable() -> None:
    host = Host()
    for _ in range(10):
        assert not host.turn().look
    assert host.now.knobs == STANDS


def test_new_memory_is_looked_at_once_it_is_there() -> None:
    host = Host()
    assert "more comes" in host.turn(processes=1, resident_bytes=100 * MB).reason
    assert not host.turn(resident_bytes=200 * MB).look
    assert host.turn().look


def test_memory_that_grows_for_ever_is_looked_at_all_the_same() -> None:
    host = Host()
    host.turn(processes=1, resident_bytes=100 * MB)
    while not host.turn(resident_bytes=host.now.resident_bytes + 20 * MB).look:
        assert host.now.seconds < 2 * CALM, "it was never looked at"
    assert host.now.seconds >= CALM


def test_ksmd_runs_flat_out_for_what_pays() -> None:
    host = Host()
    host.work()
    wanted = host.now.knobs
    assert (wanted.run, wanted.pages_to_scan, wanted.sleep_millisecs) == (1, BATCH, 0)
    assert wanted.use_zero_pages == 1


@pytest.mark.parametrize("promised", [0, 3 * MB])
def test_it_stands_for_what_does_not(promised: int) -> None:
    host = Host()
    host.turn(processes=4, resident_bytes=1000 * MB)
    host.turn(seconds=1)
    host.turn(promised_bytes=promised)
    assert not host.runs
    assert "not worth it" in host.decision.reason
    assert not host.turn().look, "what was looked at is no news"


def test_it_stands_once_what_was_promised_is_there() -> None:
    host = Host()
    host.work(400 * MB)
    host.turn(counters=host.counters(pages_sharing=50_000))
    assert host.runs
    host.turn(counters=host.counters(pages_sharing=96_000))
    assert (
        host.looked(2 * MB, 398 * MB).reason == "saved 398 MB, as promised; 398 MB are merged now"
    )
    assert not host.runs


def test_what_is_merged_freed_and_merged_again_counts_once() -> None:
    """KSM counts the 240 MB that were freed, until ksmd comes by: 160 MB are left to save."""
    host = Host()
    host.work(400 * MB)
    host.turn(counters=host.counters(pages_sharing=98_000))
    host.looked(160 * MB, 160 * MB)
    assert host.runs, "static duplicates are left"
    assert host.now.knobs.smart_scan == 0, "nothing of it may be passed over"
    host.scan(pages_sharing=40_000)
    host.scan(pages_sharing=78_000)
    told = "saved 319 MB of 400 MB; 319 MB are merged now, and the rest has gone"
    assert host.looked(1 * MB, 319 * MB).reason == told


def test_leftovers_of_processes_that_ended_are_no_loss() -> None:
    """They are counted when the work begins, and not any more when it ends."""
    host = Host()
    host.now = replace(host.now, counters=host.counters(pages_sharing=33_000))
    host.work(127 * MB)
    host.scan(2, pages_sharing=0)
    host.scan(pages_sharing=31_000)
    assert host.looked(0, 127 * MB).reason == "saved 127 MB, as promised; 127 MB are merged now"


def test_a_counter_that_lags_all_the_while_does_not_hide_what_is_merged() -> None:
    host = Host()
    host.work(127 * MB)
    host.scan(4)
    assert host.looked(0, 127 * MB).reason == "saved 127 MB, as promised; 127 MB are merged now"


def test_it_stands_when_scans_bring_nothing() -> None:
    host = Host()
    host.work()
    host.scan(3)
    host.looked(400 * MB, 0)
    assert host.runs, "once more, with nothing passed over"
    assert host.now.knobs.smart_scan == 0
    host.scan(3)
    told = host.looked(400 * MB, 0).reason
    assert not host.runs
    assert told.startswith("saved 0 MB of 400 MB; 0 MB are merged now, and 400 MB left:")
    assert told.endswith("too little")


def test_what_is_left_is_looked_at_again_ever_more_rarely() -> None:
    host = Host()
    host.work()
    ends = []
    for _ in range(4):
        while host.runs or host.decision.look:
            host.scan()
            if host.decision.look:
                host.looked(400 * MB, 0)
        ends.append(host.now.seconds)
        while not host.decision.look:
            host.turn(changed_share=0.0 if host.decision.sample else None, moving_share=0.0)
            assert host.now.seconds < 1000
        ends[-1] = host.now.seconds - ends[-1]
        host.turn(promised_bytes=400 * MB, merged_bytes=0)
        assert host.runs
    assert ends[0] < 2 * AGAIN
    assert ends == sorted(ends)
    assert ends[-1] > 6 * AGAIN


def test_a_first_scan_brings_nothing_and_that_is_right() -> None:
    host = Host()
    host.work()
    host.scan(2)
    assert host.runs


def test_memory_that_has_changed_is_looked_at_when_it_stands_still() -> None:
    host = Host()
    host.done()
    assert host.turn(seconds=5).sample
    host.turn(changed_share=0.0, moving_share=0.3)
    assert not host.decision.look
    assert host.turn(seconds=1.1).sample, "soon again, to see whether it still moves"
    assert host.turn(changed_share=0.3, moving_share=0.0).look
    host.turn(promised_bytes=200 * MB)
    assert host.runs
    assert host.now.knobs.smart_scan == 0, "what changed must not be passed over"


def test_what_changes_all_the_time_is_looked_at_ever_more_rarely() -> None:
    host = Host()
    host.done()
    samples = []
    for _ in range(400):
        if host.turn().sample:
            samples.append(host.now.seconds)
            assert not host.turn(seconds=0.0, changed_share=0.0, moving_share=0.2).look
    assert not host.runs
    assert samples[-1] - samples[-3] > LONGEST
    assert len(samples) < 60


def test_a_budget_holds() -> None:
    """Flat out while there is something saved up, then at its share."""
    host = Host(Goals(cpu_percent=10, burst_seconds=5))
    host.work(100_000 * MB)
    for _ in range(40):
        host.turn(seconds=0.5, spent_seconds=host.now.spent_seconds + 0.5)
        if host.now.knobs.sleep_millisecs:
            break
    assert 4 < host.now.spent_seconds < 7
    batch = BATCH * host.course.page_seconds
    assert host.now.knobs.sleep_millisecs == pytest.approx(9000 * batch, rel=0.1)
    assert "pace of its budget" in host.decision.reason


GENTLE = Goals(latency_percent=20)


def test_ksmd_waits_while_others_wait() -> None:
    """Pauses grow while others wait more than they may, and end when they do not."""
    host = Host(GENTLE)
    host.now = replace(host.now, stalled_seconds=0.0)
    host.work(100_000 * MB)
    assert host.now.knobs.pages_to_scan == GENTLE_BATCH
    assert host.now.knobs.sleep_millisecs == 0
    pauses = []
    for _ in range(10):
        host.turn(spent_seconds=0.0, stalled_seconds=(host.now.stalled_seconds or 0) + 0.2)
        pauses.append(host.now.knobs.sleep_millisecs or 0)
    # It runs for its part of the time, however long others wait.
    assert pauses[-1] == math.ceil(1000 * GENTLE_BATCH * host.course.page_seconds * 4)
    assert pauses == sorted(pauses)
    for _ in range(10):
        host.turn(spent_seconds=0.0, stalled_seconds=(host.now.stalled_seconds or 0) + 0.01)
    assert host.now.knobs.sleep_millisecs == 0


def test_ksmd_waits_where_the_kernel_tells_no_pressure() -> None:
    host = Host(GENTLE)
    host.work(100_000 * MB)
    for _ in range(10):
        host.turn(spent_seconds=0.0)
    assert (host.now.knobs.sleep_millisecs or 0) > 0


def test_without_a_latency_budget_nobody_is_waited_for() -> None:
    host = Host()
    host.now = replace(host.now, stalled_seconds=0.0)
    host.work(100_000 * MB)
    for _ in range(10):
        host.turn(spent_seconds=0.0, stalled_seconds=(host.now.stalled_seconds or 0) + 0.25)
    assert (host.now.knobs.pages_to_scan, host.now.knobs.sleep_millisecs) == (BATCH, 0)


@pytest.mark.parametrize("short", [{"pressure": 20.0}, {"available_bytes": 1 * MB}])
def test_memory_counts_for_more_when_it_runs_short(short: dict[str, float]) -> None:
    host = Host()
    host.turn(processes=4, resident_bytes=1000 * MB, total_bytes=24_000 * MB)
    host.turn(seconds=1)
    host.turn(promised_bytes=5 * MB)
    assert not host.runs
    assert not is_short(host.now, GOALS)
    host.turn(seconds=30, resident_bytes=1100 * MB, **short)
    host.turn(seconds=1)
    assert host.decision.look
    host.turn(promised_bytes=5 * MB)
    assert host.runs


def test_knobs_that_a_kernel_lacks_are_left_alone() -> None:
    host = Host()
    host.now = replace(host.now, knobs=Knobs(run=0, pages_to_scan=100, sleep_millisecs=20))
    host.work()
    assert host.now.knobs == Knobs(run=1, pages_to_scan=BATCH, sleep_millisecs=0)


def test_undone_merging_is_left_alone() -> None:
    """An admin who wrote run=2 meant it, until something new comes."""
    host = Host()
    host.now = replace(host.now, knobs=replace(STANDS, run=2))
    for _ in range(5):
        assert changed(host.turn().knobs) == {}


@given(st.data())
def test_any_host(data: st.DataObject) -> None:
    """Whatever is seen: decisions hold values that the kernel takes, and time goes on."""
    host = Host()
    size = st.integers(0, 1 << 40)
    share = st.none() | st.floats(0, 1)
    zero_waits = 0
    for _ in range(30):
        old = host.now.counters
        grown = {
            name: (getattr(old, name) or 0) + data.draw(st.integers(0, 1 << 30))
            for name in ("full_scans", "pages_scanned")
        }
        decision = host.turn(
            seconds=data.draw(st.floats(0, 100)),
            processes=data.draw(st.integers(0, 3)),
            resident_bytes=data.draw(size),
            spent_seconds=host.now.spent_seconds + data.draw(st.floats(0, 10)),
            pressure=data.draw(st.none() | st.floats(0, 100)),
            changed_share=data.draw(share) if host.decision.sample else None,
            moving_share=data.draw(share) if host.decision.sample else None,
            promised_bytes=data.draw(size) if host.decision.look else None,
            merged_bytes=data.draw(st.none() | size) if host.decision.look else None,
            counters=host.counters(pages_sharing=data.draw(st.integers(0, 1 << 28)), **grown),
        )
        wanted = host.now.knobs
        assert wanted.run in (0, 1)
        assert wanted.sleep_millisecs is not None
        assert 0 <= wanted.sleep_millisecs <= 60_000
        assert 0 <= decision.wait_seconds <= 1
        zero_waits = zero_waits + 1 if decision.wait_seconds == 0 else 0
        assert zero_waits < 4 or decision.look or decision.sample


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name.partition(".")[0])
def test_a_trace_played_back(path: Path) -> None:
    """On what it saw of a real host it decides what it did there; ksmd mostly stands or sleeps."""
    course, goals = Course(), GOALS_OF.get(path.name.partition(".")[0], GOALS)
    lines = gzip.decompress(path.read_bytes()).splitlines()
    steps = [msgspec.json.decode(line, type=Step) for line in lines]
    assert len(steps) > 20
    for number, step in enumerate(steps, 1):
        course, decision = govern(course, step.snapshot, goals)
        assert decision == step.decision, f"line {number}"
    assert max(saved_bytes(step.snapshot.counters) for step in steps) > 10 * MB
    flat_out = [it.run == 1 and not it.sleep_millisecs for it in (s.snapshot.knobs for s in steps)]
    assert sum(flat_out) < len(steps) / 2


def test_there_are_traces() -> None:
    assert len(TRACES) == 4


RESERVED = Goals(reserve_bytes=2000 * MB)


def test_nothing_more_is_merged_where_the_reserve_would_not_be_kept() -> None:
    host = Host(RESERVED)
    host.turn(available_bytes=3000 * MB)
    host.work()
    host.turn(counters=host.counters(pages_sharing=300 * MB // 4096))
    assert host.runs
    told = host.turn(available_bytes=1900 * MB)
    assert not host.runs
    assert told.reason.startswith("the reserve would lack 400 MB if all merged pages were written")
    for _ in range(20):
        assert not (decision := host.turn(seconds=1)).look
        assert decision.topic == "reserve" and not host.runs
    assert "reserve" not in host.turn(seconds=1, available_bytes=4000 * MB).reason


def test_without_a_reserve_little_memory_stops_nothing() -> None:
    host = Host()
    host.turn(available_bytes=10 * MB)
    host.work()
