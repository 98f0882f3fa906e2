"""Limits how many reads of clients' memory run at once."""

from __future__ import annotations

import asyncio
import os


class Readers:
    """Turns to read, counted for each user separately.

    More reads at once than processors would only need more buffers. The processes of one user can
    make their readers wait: then these readers hold no turns that readers of other users need.
    """

    def __init__(self) -> None:
        self._turns: dict[tuple[int, bool], asyncio.Semaphore] = {}

    def of(self, uid: int, is_large: bool = False) -> asyncio.Semaphore:
        """Return the semaphore that the caller holds while it reads memory of user ``uid``.

        Large requests have a semaphore with half as many turns: they leave room for small ones.
        """
        if (uid, is_large) not in self._turns:
            processors = len(os.sched_getaffinity(0))
            most = max(processors // 2, 1) if is_large else processors
            self._turns[uid, is_large] = asyncio.Semaphore(most)
        return self._turns[uid, is_large]
