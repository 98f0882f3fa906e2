"""How many connections each user may have."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator

import pytest

from pagemerge.service.api.accounts import Accounts


class Open:
    """A connection."""

    def __init__(self, unread: int = 0, stalled_at: float = math.inf) -> None:
        self.unread, self.stalled_at, self.closed = unread, stalled_at, False

    def close(self, _why: str) -> None:
        self.closed = True


@pytest.fixture
def small() -> Iterator[Accounts]:
    """Accounts of a service of user 7, which has 64 descriptors, so 32 connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        made = Accounts(7)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert made.most == 32
    yield made


def fill(accounts: Accounts, uid: int, wanted: int) -> int:
    """Connect until refused or ``wanted``; how many."""
    account, count = accounts.of(uid), 0
    while count < wanted and not accounts.refusal(account):
        account.connections.add(Open())
        count += 1
    return count


def test_a_user_has_a_quarter_all_others_three_and_the_owner_the_rest(small: Accounts) -> None:
    assert fill(small, 1000, 99) == 8
    assert "user 1000 has 8 connections: close some" in small.refusal(small.of(1000))
    assert [fill(small, uid, 99) for uid in (1001, 1002, 1003)] == [8, 8, 0]
    assert "users have 24 connections" in small.refusal(small.of(1003))
    assert fill(small, 7, 5) == 5
    assert fill(small, 0, 99) == 3
    assert "takes no more: try later" in small.refusal(small.of(0))


def test_who_sees_all(small: Accounts) -> None:
    assert [small.is_privileged(uid) for uid in (0, 7, 8)] == [True, True, False]


def test_a_user_that_asks_too_much_gets_no_new_connection(small: Accounts) -> None:
    account = small.of(1000)
    account.turns.spend(10.0, 1)
    assert "asks more than the service can answer" in small.refusal(account)


def test_accounts_of_users_that_are_gone_are_forgotten(small: Accounts) -> None:
    for uid in range(1000, 2000):
        small.of(uid)
    assert len(small._accounts) == 1
    busy = small.of(5000)
    busy.turns.spend(1.0, 1)
    small.of(5001)
    assert small.of(5000) is busy


def test_those_that_have_not_read_for_the_longest_time_make_room(small: Accounts) -> None:
    account = small.of(1000)
    new, old, older, reads = Open(50), Open(40, 2.0), Open(30, 1.0), Open(0)
    account.connections |= {new, old, older, reads}
    account.relieve(120)
    assert not any(it.closed for it in (new, old, older, reads))
    account.relieve(60)
    assert [it.closed for it in (new, old, older, reads)] == [False, True, True, False]
