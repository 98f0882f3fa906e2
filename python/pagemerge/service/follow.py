"""Has the daemon read its configuration again when the file has changed, as SIGHUP does.

The file is looked at again and again: inotify(7) does not see through the links by which
Kubernetes replaces the files of a ConfigMap, and not into every file system.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from pagemerge.linux.threads import start

SECONDS = 1.0
"""Between two looks at the file."""

State = tuple[int, int, int, int]


class Follower:
    """A file, and its state when the configuration was read last."""

    def __init__(self, path: Path) -> None:
        """Note the state of the file. Make this before the file is read: a change while it is read
        then counts as a change."""
        self._path = path
        self._state = _state(path)

    def changed(self) -> bool:
        """Has the file changed since the last call? A file that is missing has not."""
        now = _state(self._path)
        if now is None or now == self._state:
            return False
        self._state = now
        return True

    @contextlib.contextmanager
    def hanging_up(self, seconds: float = SECONDS) -> Iterator[None]:
        """Send SIGHUP to this process after each change. It must have a handler."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(seconds):
                if self.changed():
                    os.kill(os.getpid(), signal.SIGHUP)

        thread = start(follow, "follower")
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _state(path: Path) -> State | None:
    """Return what differs after a file was written or replaced; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
