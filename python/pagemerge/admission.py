"""What a user may take of a hub, all of its connections together.

A hub of root serves everybody. What somebody else can make it hold is bounded by user, since one
user can have as many processes and connections as it likes.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field

from pagemerge.merge.closing import Closer

MOST_SILENT = 64
"""Connections of one user that are neither clients nor asking for counters."""

SILENCE = 10.0
"""Seconds until a connection has to have said something."""

MOST_UNFINISHED = 32 << 20
"""Bytes of frames of one user that have not arrived whole."""

MOST_DESCRIPTORS = 128
"""Descriptors of one user that were received and are not taken in or closed yet."""

MOST_REGIONS = 1 << 17
"""Regions of one user: each costs the hub about a kilobyte."""

OVERCOMMITTED = 4
"""Times the host's memory that the regions of one user may have: guests promise more memory than
there is, and the hub's records of a page take 17 bytes."""

DESCRIPTORS = 4
"""Of a client: its socket, and three to read it by."""


@dataclass(slots=True)
class Account:
    """Of one user."""

    uid: int
    connections: int = 0
    silent: int = 0
    unfinished: int = 0
    """Bytes."""
    regions: int = 0
    pages: int = 0
    closer: Closer = field(default_factory=Closer)

    @property
    def has_room_for_descriptors(self) -> bool:
        """May this user send more descriptors?"""
        return self.closer.held < MOST_DESCRIPTORS

    @property
    def is_over(self) -> bool:
        """Is nothing of it left?"""
        return not (self.connections or self.closer.held)


class Admission:
    """The accounts of all users."""

    def __init__(self) -> None:
        self._accounts: dict[int, Account] = {}

    def of(self, uid: int) -> Account:
        """The account of a user."""
        for other in [it for it in self._accounts.values() if it.is_over and it.uid != uid]:
            del self._accounts[other.uid]
        return self._accounts.setdefault(uid, Account(uid))

    def may_connect(self, account: Account) -> bool:
        """May this user have one more connection? The hub's own user may have all there are."""
        if account.uid == os.geteuid():
            return True
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Half of the descriptors are for slabs, and no user has more than half of the other half.
        return account.connections < max(most // 4 // DESCRIPTORS, 1)
