"""Places for long calls: users share theirs, and root does not wait for users."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from contextlib import ExitStack

import msgspec
import pytest

from pagemerge.hub.contact import Caller
from pagemerge.service.api.accounts import Accounts
from pagemerge.service.api.answers import MOST_HISTORIES, Answers, Request
from pagemerge.service.api.control import KernelControl
from pagemerge.service.api.moments import Moments
from pagemerge.service.api.places import Places
from pagemerge.service.api.refusal import Refusal
from pagemerge.service.api.wire import Call
from pagemerge.watch.model import Moment
from tests.support.api import recorded

ROOT, OWNER = 0, 7


def test_users_have_one_each_and_root_has_places_of_its_own() -> None:
    places = Places("scans", 2, 2)
    with ExitStack() as stack:
        for uid, is_privileged in ((1, False), (2, False), (ROOT, True), (OWNER, True)):
            stack.enter_context(places.place(uid, is_privileged=is_privileged))
        with pytest.raises(Refusal, match="user 1 has one of the scans already"):
            places.place(1, is_privileged=False).__enter__()
        for uid, is_privileged in ((3, False), (ROOT, True)):
            with pytest.raises(Refusal, match="2 scans go on already"):
                places.place(uid, is_privileged=is_privileged).__enter__()
    with pytest.raises(ZeroDivisionError), places.place(1, is_privileged=False):
        raise ZeroDivisionError
    with places.place(3, is_privileged=False), places.place(1, is_privileged=False):
        pass


def test_no_limit_is_no_limit() -> None:
    places = Places("calls", 1)
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(places.place(ROOT, is_privileged=True))


def test_slow_histories_of_users_do_not_keep_root_waiting() -> None:
    free, reading = threading.Event(), threading.Semaphore(0)

    def history(_since: float, most: int) -> Iterable[Moment]:
        if most != 1:
            reading.release()
            assert free.wait(60)
        return [recorded()]

    async def asked(answers: Answers, accounts: Accounts, uid: int, most: int) -> int:
        parameters = msgspec.Raw(b'{"most":%d}' % most)
        call = Call("org.pagemerge.History", parameters, more=True)
        request = Request(call, Caller(1, uid, uid, frozenset(), None), accounts.of(uid))
        return len([it async for it in answers.answer(request)])

    async def run() -> None:
        accounts = Accounts(OWNER)
        answers = Answers(Moments(recorded), KernelControl(), history, accounts)
        users = range(1000, 1000 + MOST_HISTORIES)
        slow = [asyncio.create_task(asked(answers, accounts, uid, 2)) for uid in users]
        while not reading.acquire(blocking=False):
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            assert await asked(answers, accounts, ROOT, 1) == 1
            assert await asked(answers, accounts, OWNER, 1) == 1
        with pytest.raises(Refusal, match="4 calls of History go on already"):
            await asked(answers, accounts, 4242, 1)
        assert not any(it.done() for it in slow)
        free.set()
        assert await asyncio.gather(*slow) == [1] * MOST_HISTORIES

    try:
        asyncio.run(run())
    finally:
        free.set()
