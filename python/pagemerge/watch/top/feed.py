"""The thread that reads moments: a source that is slow, or that never answers, stalls no screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pagemerge.errors import PagemergeError
from pagemerge.watch.model import Moment
from pagemerge.watch.top.source import Ended, Source

News = Moment | Exception
"""What one call of a source brought."""


class Feed:
    """Asks a source in a thread of its own, once for each call of ``ask``.

    ``tell`` is called in that thread with what the source returned or raised. The thread is a
    daemon, so that a source that does not answer keeps nobody from quitting.
    """

    def __init__(self, source: Source, tell: Callable[[News], None]) -> None:
        self._source, self._tell = source, tell
        self._wanted = threading.Event()
        self._asked = 0.0
        self.ended = False
        """The source has no other moment, or we have closed it."""
        threading.Thread(target=self._run, name="moments", daemon=True).start()

    def ask(self) -> None:
        """Have the source read a moment, unless it is at it."""
        if not self._wanted.is_set():
            self._asked = time.monotonic()
            self._wanted.set()

    @property
    def waiting_seconds(self) -> float:
        """How long the source has been reading; 0 if it is not."""
        return time.monotonic() - self._asked if self._wanted.is_set() else 0.0

    def close(self) -> None:
        """Let the thread end, once the source has answered."""
        self.ended = True
        self._wanted.set()

    def _run(self) -> None:
        while self._wanted.wait() and not self.ended:
            news: News
            try:
                news = self._source()
            except Ended as error:
                news, self.ended = error, True
            except PagemergeError as error:
                news = error
            except Exception as error:  # a fault in a source must not end the view
                news = error
            self._wanted.clear()
            self._tell(news)
