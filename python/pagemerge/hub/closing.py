"""Closes descriptors that another process has sent.

Closing a descriptor asks its file system first, and waits for the answer. A file system that is a
program (FUSE) may never answer. So only a descriptor of a memory file is closed at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import threading

F_GET_SEALS = 1034
"""fcntl(2). The kernel answers it without asking any file system: memory files have seals."""


def has_seals(descriptor: int) -> bool:
    """Return true if the descriptor is of a memory file. Never blocks."""
    try:
        fcntl.fcntl(descriptor, F_GET_SEALS)
    except OSError:
        return False
    return True


class Closer:
    """Closes the descriptors that one user has sent, in a thread if closing may wait."""

    def __init__(self) -> None:
        self.held = 0
        """Descriptors that the user has sent, and that are not closed yet."""
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._runs = False

    def received(self, count: int) -> None:
        """Count descriptors that the user has sent."""
        with self._lock:
            self.held += count

    def let_go(self) -> None:
        """Count a descriptor no more, because the caller closes it itself."""
        self.received(-1)

    def close(self, descriptor: int) -> None:
        """Close a descriptor that was counted by ``received``. Never blocks."""
        if has_seals(descriptor):
            os.close(descriptor)
            self.let_go()
            return
        self._queue.put(descriptor)
        with self._lock:
            if self._runs:
                return
            self._runs = True
        try:
            threading.Thread(target=self._work, name="closer", daemon=True).start()
        except RuntimeError:  # no thread can be started now: the next call starts one for both
            self._runs = False

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._queue.empty():
                    self._runs = False
                    return
            # The file system may answer with an error; the kernel closes the descriptor anyway.
            with contextlib.suppress(OSError):
                os.close(self._queue.get())
            self.let_go()
