"""What each caller sees of a moment, and how often the source is asked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
import pytest

from pagemerge.errors import PagemergeError
from pagemerge.service.api import moments
from pagemerge.service.api.moments import KEPT, RECENT, Moments
from pagemerge.watch.model import Decision, Moment
from tests.support.api import recorded
from tests.support.commands import NOBODY

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def shown(reply: bytes) -> Any:
    return json.loads(reply)["moment"]


def test_root_sees_all_and_others_their_own_rows_and_the_totals() -> None:
    seen = run(Moments(recorded).now())
    everything, own, none = (shown(seen.reply(uid)) for uid in (None, NOBODY, 1))
    assert [it["pid"] for it in everything["rows"]] == [10, 11, 12, 13]
    assert [it["pid"] for it in own["rows"]] == [11, 12]
    assert none["rows"] == []
    assert everything["user"] == own["user"] == none["user"] is not None
    assert everything["host"] == own["host"] == none["host"]
    assert len(everything["decisions"]) == 2
    assert own["decisions"] == none["decisions"] == []


def test_names_keep_their_characters_and_bytes_that_are_no_text_are_escaped() -> None:
    rows = shown(run(Moments(recorded).now()).reply(None))["rows"]
    assert rows[1]["name"] == "\x1b[31mred\n"
    assert rows[3]["name"] == r"\xff\udc1b"


def test_values_of_knobs_are_text() -> None:
    (begin, rest) = shown(run(Moments(recorded).now()).reply(None))["decisions"]
    assert (begin["knobs"], rest["knobs"]) == ({"run": "1"}, {"advisor_mode": "none"})


def test_callers_at_the_same_time_share_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "FRESH", 600.0)
    calls = []

    def source() -> Moment:
        calls.append(threading.current_thread().name)
        return recorded()

    async def ask() -> None:
        together = Moments(source)
        seen = await asyncio.gather(*(together.now() for _ in range(500)))
        assert len({id(it) for it in seen}) == 1
        assert seen[0].reply(None) is seen[1].reply(None)
        assert await together.now() is seen[0]

    run(ask())
    assert calls == ["api-work"]


def test_decisions_are_those_since_the_caller_s_last_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moments, "FRESH", 0.0)
    count = iter(range(10**6))

    def source() -> Moment:
        made = tuple(Decision(next(count), "again", {}) for _ in range(3))
        return msgspec.structs.replace(recorded(), decisions=made)

    async def ask() -> None:
        together = Moments(source)
        for _ in range(4):
            first = await together.now()
        times = [it["time"] for it in shown(first.reply(None))["decisions"]]
        assert times == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11] and len(times) == RECENT
        second = await together.now()
        since = shown(second.reply(None, first.number))["decisions"]
        assert [it["time"] for it in since] == [12, 13, 14]
        assert shown(second.reply(None, second.number))["decisions"] == []
        for _ in range(KEPT):
            last = await together.now()
        assert (
            len(shown(last.reply(None, first.number))["decisions"]) == KEPT == len(last.decisions)
        )

    run(ask())


def test_a_source_that_hangs_makes_no_caller_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moments, "PATIENCE", 0.2)
    going = threading.Event()

    def source() -> Moment:
        going.wait(30)
        return recorded()

    async def ask() -> None:
        together = Moments(source)
        for _ in range(2):
            with pytest.raises(PagemergeError, match=r"takes longer than 0\.2 s now; try later"):
                await together.now()
        assert sum(it.name == "api-work" for it in threading.enumerate()) == 1
        going.set()
        monkeypatch.setattr(moments, "PATIENCE", 30.0)
        assert (await together.now()).moment.rows

    run(ask())


def test_a_source_that_fails_is_asked_again() -> None:
    failing = [True]

    def source() -> Moment:
        if failing:
            raise PagemergeError("not today")
        return recorded()

    async def ask() -> None:
        together = Moments(source)
        with pytest.raises(PagemergeError, match="not today"):
            await together.now()
        failing.clear()
        assert (await together.now()).moment.rows

    run(ask())
