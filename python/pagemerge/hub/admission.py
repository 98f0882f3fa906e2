"""What a user may take of a hub, all of its connections together.

A hub of root serves everybody. What somebody else can make it hold is bounded by user, since one
user can have as many processes and connections as it likes.
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
"""Connections of one user that are neither clients nor asking for counters."""

SILENCE = 10.0
"""Seconds until a connection has to have said something."""

MOST_UNFINISHED = 32 << 20
"""Bytes of frames of one user that have not arrived whole."""

MOST_UNREAD = 32 << 20
"""Bytes of frames to one user that its processes have not read."""

MOST_FIXED = 128 << 20
"""Bytes for what is bounded by number alone: connections, threads, domains, plans under way."""

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
    links: set[Link] = field(default_factory=set)
    silent: int = 0
    unfinished: int = 0
    """Bytes."""
    unread: int = 0
    """Bytes that its processes have not read."""
    regions: int = 0
    pages: int = 0
    frames: Turns = field(default_factory=Turns)
    viewers: Viewers = field(default_factory=Viewers)
    closer: Closer = field(default_factory=Closer)

    @property
    def has_room_for_descriptors(self) -> bool:
        """May this user send more descriptors?"""
        return self.closer.held < MOST_DESCRIPTORS

    @property
    def is_over(self) -> bool:
        """Is nothing of it left, and has it had to wait for what it has taken of the loop?"""
        owes = self.frames.wait or self.viewers.turns.wait
        return not (self.links or self.closer.held or owes)

    def leaves_unread(self, count: int) -> None:
        """So many bytes more, or less, of frames to it are unread."""
        self.unread += count
        if count > 0 and self.unread > MOST_UNREAD:
            # Soon: whoever sends may be going through its clients, and some may be read at once.
            asyncio.get_running_loop().call_soon(self._relieve)

    def _relieve(self) -> None:
        """The connection that leaves most unread has to go."""
        if self.unread > MOST_UNREAD:
            heaviest = max(self.links, key=lambda link: link.unread)
            heaviest.close("its user's processes do not read what they are sent")


class Admission:
    """The accounts of all users."""

    def __init__(self) -> None:
        self._accounts: dict[int, Account] = {}

    def of(self, uid: int) -> Account:
        """The account of a user."""
        for other in [it for it in self._accounts.values() if it.is_over and it.uid != uid]:
            del self._accounts[other.uid]
        return self._accounts.setdefault(uid, Account(uid))

    def __len__(self) -> int:
        """How many users there are."""
        return len(self._accounts)

    def may_connect(self, account: Account) -> bool:
        """May this user have one more connection? The hub's own user may have all there are."""
        if account.uid == os.geteuid():
            return True
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Half of the descriptors are for slabs, and no user has more than half of the other half.
        return len(account.links) < max(most // 4 // DESCRIPTORS, 1)


def most_memory(user_share: float) -> int:
    """Bytes that one user can make a hub hold, its slabs included; ``user_share``: the setting."""
    host = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    records = OVERCOMMITTED * host // PAGE_SIZE * PAGE_BYTES + MOST_REGIONS * 1024
    # A slab may be filled for each builder before the share is asked again.
    return MOST_UNFINISHED + MOST_UNREAD + records + int(host * user_share) + MOST_FIXED
