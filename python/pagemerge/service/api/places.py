"""Limits how many calls of one kind are answered at once, and keeps places free for root.

A call that takes much for long (a scan, or moments of the history that its caller has not read yet)
takes a place. Users share theirs. Root and the owner of the service have places of their own, so
that no user can keep them waiting.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pagemerge.service.api import refusal


class Places:
    """The places for calls of one kind.

    ``what``: what such calls are, in the plural, for people. ``users``: how many calls of users
    without privilege are answered at once, one for each. ``privileged``: how many of root and the
    owner; None: no limit.
    """

    def __init__(self, what: str, users: int, privileged: int | None = None) -> None:
        self._what = what
        self._most = {False: users, True: privileged}
        self._taken: dict[bool, Counter[int]] = {False: Counter(), True: Counter()}
        """Is privileged -> uid -> calls that are answered now."""
        self._turns = {False: asyncio.Lock(), True: asyncio.Lock()}

    @contextmanager
    def place(self, uid: int, *, is_privileged: bool) -> Iterator[None]:
        """Take a place for a call of a user. Raises ``Refusal`` if none is free."""
        taken, most = self._taken[is_privileged], self._most[is_privileged]
        if not is_privileged and taken[uid]:
            raise refusal.ours("Busy", f"user {uid} has one of the {self._what} already: try later")
        if most is not None and taken.total() >= most:
            raise refusal.ours("Busy", f"{taken.total()} {self._what} go on already: try later")
        taken[uid] += 1
        try:
            yield
        finally:
            taken[uid] -= 1
            if not taken[uid]:
                del taken[uid]

    def turn(self, *, is_privileged: bool) -> asyncio.Lock:
        """Return the lock for work that one call at a time may do: calls of root and the owner do
        not wait for those of users."""
        return self._turns[is_privileged]
