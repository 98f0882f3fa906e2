"""Limits what each user may take of a hub, with all of its connections together.

A hub of root serves all users. What other users can make it hold is limited for each user, because
one user can have any number of processes and connections.
"""

from __future__ import annotations

import asyncio
import os
import resource
from dataclasses import dataclass, field

from pagemerge.hub.closing import Closer
from pagemerge.hub.link import Link
from pagemerge.hub.model import PAGE_BYTES
from pagemerge.hub.turns import Turns
from pagemerge.hub.viewers import Viewers
from pagemerge.model import PAGE_SIZE

MOST_SILENT = 64
"""The most connections of one user that are no clients and have not asked for counters."""

SILENCE = 10.0
"""Seconds in which a connection has to send its first frame."""

MOST_UNFINISHED = 32 << 20
"""The most bytes of one user's frames that have not arrived completely."""

MOST_UNREAD = 32 << 20
"""The most bytes of frames to one user that its processes have not read."""

MOST_FIXED = 128 << 20
"""Bytes for objects that are limited by number only: connections, threads, domains, current plans.
"""

MOST_DESCRIPTORS = 128
"""The most descriptors of one user that the hub has received and not yet taken in or closed."""

MOST_REGIONS = 1 << 17
"""The most regions of one user: each costs the hub about a kilobyte."""

OVERCOMMITTED = 16
"""How many times the host's memory the regions of one user may have: guests promise more memory
than the host has, and the hub's records of a page take up to 17 bytes."""

DESCRIPTORS = 4
"""Descriptors of a client: its socket, and three to read its memory."""


@dataclass(slots=True)
class Account:
    """What one user takes of the hub."""

    uid: int
    links: set[Link] = field(default_factory=set)
    silent: int = 0
    unfinished: int = 0
    """Bytes of its frames that have not arrived completely."""
    unread: int = 0
    """Bytes that its processes have not read."""
    regions: int = 0
    pages: int = 0
    frames: Turns = field(default_factory=Turns)
    viewers: Viewers = field(default_factory=Viewers)
    closer: Closer = field(default_factory=Closer)

    @property
    def has_room_for_descriptors(self) -> bool:
        """True if this user may send more descriptors."""
        return self.closer.held < MOST_DESCRIPTORS

    @property
    def is_over(self) -> bool:
        """True if the user has nothing open, and does not have to wait for its next turn."""
        owes = self.frames.wait or self.viewers.turns.wait
        return not (self.links or self.closer.held or owes)

    def leaves_unread(self, count: int) -> None:
        """Count ``count`` bytes of frames to the user as unread; as read if negative."""
        self.unread += count
        if count > 0 and self.unread > MOST_UNREAD:
            # Not at once: the caller may be iterating over its clients, and some may read soon.
            asyncio.get_running_loop().call_soon(self._relieve)

    def _relieve(self) -> None:
        """Close the connection with the most unread bytes."""
        if self.unread > MOST_UNREAD:
            heaviest = max(self.links, key=lambda link: link.unread)
            heaviest.close("its user's processes do not read what they are sent")


class Admission:
    """The accounts of all users."""

    def __init__(self) -> None:
        self._accounts: dict[int, Account] = {}

    def of(self, uid: int) -> Account:
        """Return the account of a user."""
        for other in [it for it in self._accounts.values() if it.is_over and it.uid != uid]:
            del self._accounts[other.uid]
        return self._accounts.setdefault(uid, Account(uid))

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self._accounts)

    def may_connect(self, account: Account) -> bool:
        """Return true if this user may open another connection. The hub's own user has no limit."""
        if account.uid == os.geteuid():
            return True
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Half of the descriptors are for slabs; no user gets more than half of the other half.
        return len(account.links) < max(most // 4 // DESCRIPTORS, 1)


def most_memory(user_share: float) -> int:
    """Return the bytes that one user can make a hub hold, its slabs included.

    ``user_share``: the setting.
    """
    host = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    records = OVERCOMMITTED * host // PAGE_SIZE * PAGE_BYTES + MOST_REGIONS * 1024
    # Each builder may fill a slab before the hub checks the share again.
    return MOST_UNFINISHED + MOST_UNREAD + records + int(host * user_share) + MOST_FIXED
