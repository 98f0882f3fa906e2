"""Whether memory is short: then it counts for more than processor time.

Memory is short where little is left of the host or of a memory cgroup, where what is left is
filled within two seconds, or where tasks wait for memory (PSI). A shortage of the host, or of the
hub's own cgroup, concerns all clients. One of a client's cgroup concerns the domain of the
client: its memory is merged sooner, but the hub does not take more processor time for it, because
users can make cgroups of their own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from pagemerge.errors import PagemergeError
from pagemerge.hub.domain import Members
from pagemerge.hub.settings import Settings
from pagemerge.hub.turns import breathe
from pagemerge.linux import accounts, cgroup
from pagemerge.linux.room import Room, room

log = logging.getLogger("pagemerge.hub")
T = TypeVar("T")

AHEAD = 2.0
"""Seconds: memory is short, too, if it would be full by then, filled as fast as at the moment."""

CALM = 5.0
"""Seconds without a shortage after which it is over: programs fill memory in bursts."""

SOONEST, LATEST = 0.1, 1.0
"""Seconds between two looks: at the least, and at the most."""

QUICKER, SLOWEST = 4.0, 0.05
"""How many times faster than at the moment memory may be filled before the next look, and the least
share of all memory that may be filled in a second."""

SHARE = 0.005
"""Share of a core for looking at the cgroups of clients."""


class Shortage:
    """Looks again and again at how much memory is left."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.everywhere = False
        """Memory of the host, or of the hub's own cgroup, is short."""
        self._over = 0.0
        """When the shortage is over, if it does not come back (time.monotonic)."""
        self._left, self._seen = 0, 0.0
        """Bytes that were left at the last look, and when that was."""

    async def watch(
        self, domains: Callable[[], Iterable[Members]], on_change: Callable[[], None]
    ) -> None:
        """Note what is short, for ever. ``on_change`` is called when ``everywhere`` changes."""
        due = time.monotonic()
        while True:
            soon = self._look_everywhere(on_change)
            if time.monotonic() >= due:
                spent = 0.0
                for members in list(domains()):
                    spent += await self._look_at(members)
                due = time.monotonic() + max(spent / SHARE, SOONEST)
            await asyncio.sleep(min(max(soon, SOONEST), LATEST))

    def concerns(self, members: Members) -> bool:
        """Return true if merging pages of this domain relieves a shortage."""
        return self.everywhere or members.is_short

    def _look_everywhere(self, on_change: Callable[[], None]) -> float:
        """Return the seconds after which memory can be short."""
        now, found = time.monotonic(), _told(room, os.getpid())
        own = _told(accounts.cgroup_pressure_percent, os.getpid())
        waiting = (accounts.pressure_percent(), own)
        short = any(it is not None and it >= self._percent for it in waiting)
        soon = LATEST
        if found is not None:
            left, everything = found.left_bytes, _everything(found)
            rate = max(self._left - left, 0) / max(now - self._seen, SOONEST)
            self._left, self._seen = left, now
            spare = left - everything * self.settings.available_percent / 100
            short |= spare < 0 or (self.settings.available_percent > 0 and left < rate * AHEAD)
            soon = spare / max(rate * QUICKER, everything * SLOWEST)
        if short:
            self._over = now + CALM
        if short != self.everywhere and (short or now >= self._over):
            self.everywhere = short
            if short:
                how = f": {found.left_bytes / 1e6:.0f} MB are left" if found else ""
                log.warning("memory is short%s: merging hurries", how)
            else:
                log.warning("memory is not short any more")
            on_change()
        return soon

    async def _look_at(self, members: Members) -> float:
        """Note whether a cgroup of a client is short; each cgroup is asked once. Returns the
        processor seconds that this took."""
        own, seen = _told(_cgroup_of, os.getpid()), set[bytes]()
        short, spent = False, 0.0
        for client in list(members.clients):
            await breathe()
            began = time.thread_time()
            group = _told(_cgroup_of, client.pid)
            if group is not None and group != own and group not in seen:
                seen.add(group)
                found = _told(room, client.pid)
                waiting = _told(accounts.cgroup_pressure_percent, client.pid)
                short |= found is not None and found.limit is not None and self._is_short(found)
                short |= waiting is not None and waiting >= self._percent
            spent += time.thread_time() - began
        if short and not members.is_short:
            members.hurry()
        members.is_short = short
        return spent

    @property
    def _percent(self) -> float:
        return self.settings.pressure_percent

    def _is_short(self, found: Room) -> bool:
        return found.left_bytes < _everything(found) * self.settings.available_percent / 100


def _everything(found: Room) -> int:
    """Return the bytes of the memory of which the room is a part."""
    return accounts.total_bytes() if found.limit is None else found.limit.limit_bytes


def _cgroup_of(pid: int) -> bytes:
    """Return what names the memory cgroup of a process. Raises ``NoSuchProcess`` or
    ``AccessDenied``."""
    found = accounts.memory_cgroups(cgroup.entries(pid), accounts.CGROUPS)
    return b"\0".join(path for _, path, _ in found)


def _told(ask: Callable[[int], T], pid: int) -> T | None:
    """Ask about a process; None if it has ended, or the kernel does not tell."""
    try:
        return ask(pid)
    except PagemergeError:
        return None
