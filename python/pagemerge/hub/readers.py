"""How many reads of clients' memory may be under way at once."""

from __future__ import annotations

import asyncio
import os


class Readers:
    """Turns to read, for each user by itself.

    More at once than there are processors would only need more buffers. One user's processes may
    make their readers wait: they keep no turns from others.
    """

    def __init__(self) -> None:
        self._turns: dict[tuple[int, bool], asyncio.Semaphore] = {}

    def of(self, uid: int, is_large: bool = False) -> asyncio.Semaphore:
        """To be held while memory of this user's is read; large requests leave room for small."""
        if (uid, is_large) not in self._turns:
            processors = len(os.sched_getaffinity(0))
            most = max(processors // 2, 1) if is_large else processors
            self._turns[uid, is_large] = asyncio.Semaphore(most)
        return self._turns[uid, is_large]
