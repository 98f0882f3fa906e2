"""Remembers which processes keep our readers waiting, and so who is not asked any more."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections import Counter
from dataclasses import dataclass

from pagemerge.errors import PagemergeError
from pagemerge.linux.process import PROC

IMPATIENCE = 2.0
"""Seconds for which a reader may wait for a process of a user who keeps other readers waiting."""

MOST_LEFT = 8
"""Readers that the processes of one user can keep waiting; then nobody asks the next ones."""
MOST_LEFT_IN_ALL = 64
"""From then on users who keep a reader waiting are not asked, nor are those that another user may
have made (``SUBORDINATE``)."""
SUBORDINATE = 1 << 16
"""Uids from here on are usually of user namespaces, of which one user has thousands (subuid(5))."""

SLOW, BUDGET, RECOVERY = 1.0, 20.0, 1 / 30
"""An answer is slow after so many seconds of waiting. The processes of one user may be slow for
``BUDGET`` seconds together; that much comes back each second."""

WHY = "it may use a file system that does not answer (FUSE), or have locked its memory for that"


class Unanswered(PagemergeError):
    """A process kept our reader waiting for too long."""


@dataclass(slots=True)
class _Left:
    """A reader that was left behind, and the process and user for whom it waits."""

    socket: socket.socket
    reader: int
    """Pid of the reader."""
    pid: int
    """0: it was one of several."""
    uid: int
    handle: int
    """A pidfd of the process; -1 if there is none. Another process may get its pid."""

    def is_of(self, pid: int) -> bool:
        """Is it process ``pid`` for which the reader waits?"""
        if self.pid != pid or not pid:
            return False
        if self.handle < 0:
            return True
        ended = select.poll()
        ended.register(self.handle, select.POLLIN)
        return not ended.poll(0)

    def close(self) -> None:
        """Let go of it: it ends by itself when it can."""
        self.socket.close()
        if self.handle >= 0:
            os.close(self.handle)


class Waiting:
    """Readers that were left behind, until they end or answer, and users who answer slowly."""

    def __init__(self) -> None:
        self._left: list[_Left] = []
        self._slow: dict[int, tuple[float, float]] = {}
        """Uid -> seconds for which its processes were slow, and when that was noted."""

    @property
    def readers(self) -> set[int]:
        """Pids of the readers that were left behind."""
        return {it.reader for it in self._left}

    def leave(self, end: socket.socket, reader: int, pid: int) -> None:
        """Note that a reader waits for process ``pid`` (0: one of several); ``end``: our end of its
        socket."""
        handle = -1
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid) if pid else -1
        self._left.append(_Left(end, reader, pid, uid_of(pid) if pid else -1, handle))

    def note(self, pid: int, waited: float) -> None:
        """Note for how many seconds a reader waited for process ``pid``, which has answered."""
        if waited > SLOW and pid:
            uid = uid_of(pid)
            self._slow[uid] = max(self._slowness(uid), 0.0) + waited, time.monotonic()

    def refusal(self, pid: int) -> Unanswered | None:
        """Return why process ``pid`` is not looked at; None if it is."""
        if not self._left and not self._slow:
            return None
        self._forget()
        if any(it.is_of(pid) for it in self._left):
            return Unanswered(f"one of our processes still waits for it: {WHY}", pid=pid)
        uid = uid_of(pid)
        if self._slowness(uid) > BUDGET:
            return Unanswered("processes of its user answer too slowly", pid=pid)
        kept = Counter(it.uid for it in self._left)[uid]
        if kept >= MOST_LEFT:
            return Unanswered(f"{MOST_LEFT} of our processes wait for others of its user", pid=pid)
        if len(self._left) >= MOST_LEFT_IN_ALL and (kept or uid >= SUBORDINATE):
            return Unanswered(f"{len(self._left)} of our processes wait for others", pid=pid)
        return None

    def seconds(self, pid: int, patience: float) -> float:
        """Return how long a reader may wait for process ``pid``: ``patience``, or less."""
        if not pid:  # several, which take microseconds: if they do not, each is asked by itself
            return min(patience, IMPATIENCE)
        if not self._left:
            return patience
        self._forget()
        uid = uid_of(pid)
        is_known = any(it.uid == uid for it in self._left)
        return min(patience, IMPATIENCE) if is_known else patience

    def close(self) -> None:
        """Let go of all readers."""
        for left in self._left:
            left.close()
        self._left = []

    def _slowness(self, uid: int) -> float:
        """Return for how many seconds processes of a user were slow, less what has come back."""
        seconds, noted = self._slow.get(uid, (0.0, 0.0))
        return seconds - (time.monotonic() - noted) * RECOVERY

    def _forget(self) -> None:
        """Forget readers that have answered since; they end when their socket closes."""
        poll = select.poll()
        for it in self._left:
            poll.register(it.socket, select.POLLIN)
        late = dict(poll.poll(0))
        for left in [it for it in self._left if it.socket.fileno() in late]:
            left.close()
            self._left.remove(left)


def uid_of(pid: int) -> int:
    """Return the effective uid of a process; -1 if it has ended."""
    try:
        return os.stat(f"{PROC}/{pid}").st_uid  # noqa: PTH116
    except OSError:
        return -1
