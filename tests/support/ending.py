"""The end of a benchmark, on every path: what it started or changed must not stay."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM unwind the stack, so that ``finally`` is reached."""

    def leave(number: int, _: FrameType | None) -> None:
        # timeout(1) sends it twice: the second must not end what the first began to undo.
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
