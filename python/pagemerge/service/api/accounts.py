"""Limits what each user may take of the API, with all of its connections together.

A service of root serves all users, so what other users can make it hold or do is limited for each
user. ``Turns`` of the hub limits the loop's time.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pagemerge.hub.turns import Turns

MOST_CONNECTIONS = 4096
"""The most connections in all, if there are descriptors for them."""
MOST_UNREAD = 64 << 20
"""The most bytes of replies that one user's processes leave unread."""
MOST_DEBT = 5.0
"""Seconds that a user's calls may wait for their turn before new connections are refused."""


class Writer(Protocol):
    """The parts of a connection that an account needs."""

    stalled_at: float
    """When the peer began to leave much unread (the loop's clock); infinity if it does not."""

    @property
    def unread(self) -> int:
        """Bytes of replies that the peer has not read."""

    def close(self, why: str) -> None:
        """End the connection."""


@dataclass(slots=True, eq=False)
class Account:
    """What one user takes of the API."""

    uid: int
    connections: set[Writer] = field(default_factory=set)
    turns: Turns = field(default_factory=Turns)
    queue: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the call that waits for the next turn; the others wait behind it."""

    @property
    def is_over(self) -> bool:
        """True if the user has nothing open, and does not have to wait for its next turn."""
        return not (self.connections or self.turns.wait)

    @property
    def unread(self) -> int:
        """Bytes of replies that the user's processes have not read."""
        return sum(it.unread for it in self.connections)

    def relieve(self, most: int) -> None:
        """Close the connections that have not been read for the longest time, until no more than
        ``most`` bytes are unread."""
        by_age = sorted(self.connections, key=lambda it: it.stalled_at)
        left = self.unread
        for connection in by_age:
            if left <= most:
                return
            left -= connection.unread
            connection.close(f"processes of user {self.uid} leave {most:,} bytes unread")


class Accounts:
    """The accounts of all users. ``owner``: the user of the service."""

    def __init__(self, owner: int) -> None:
        self.owner = owner
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = max(min(MOST_CONNECTIONS, most // 2), 1)
        """Connections in all. The owner and root may use all of them, other users three quarters,
        and each other user a quarter."""
        self._accounts: dict[int, Account] = {}

    def of(self, uid: int) -> Account:
        """Return the account of a user."""
        if uid not in self._accounts:
            over = [it.uid for it in self._accounts.values() if it.is_over]
            for other in over:
                del self._accounts[other]
            self._accounts[uid] = Account(uid)
        return self._accounts[uid]

    def is_privileged(self, uid: int) -> bool:
        """Return true if a user sees all and may change things: root, or the service's owner."""
        return uid in (0, self.owner)

    def refusal(self, account: Account) -> str:
        """Say why a user may not open another connection; empty if it may."""
        now = sum(len(it.connections) for it in self._accounts.values())
        if now >= self.most:
            return f"the service has {now:,} connections, and takes no more: try later"
        if account.turns.wait > MOST_DEBT:
            return f"user {account.uid} asks more than the service can answer: ask less often"
        if self.is_privileged(account.uid):
            return ""
        if len(account.connections) >= max(self.most // 4, 1):
            return f"user {account.uid} has {len(account.connections):,} connections: close some"
        others = sum(
            len(it.connections) for it in self._accounts.values() if not self.is_privileged(it.uid)
        )
        if others >= self.most * 3 // 4:
            return f"users have {others:,} connections to the service: try later"
        return ""

    @contextmanager
    def counted(self, account: Account) -> Iterator[None]:
        """Count the processor time of the loop in this block as spent for a user."""
        began = time.thread_time()
        try:
            yield
        finally:
            users = sum(1 for it in self._accounts.values() if it.connections)
            account.turns.spend(time.thread_time() - began, users)
