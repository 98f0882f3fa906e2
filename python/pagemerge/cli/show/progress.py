"""Shows the progress of long work on standard error, in bytes of memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pagemerge.figures import size
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from pagemerge.find.look import Progress

EVERY = 1.0
"""Seconds between two lines if standard error is not a terminal."""


@contextmanager
def looking() -> Iterator[Progress]:
    """Show the progress of a look at the pages of processes, if stderr is a terminal.

    Yields a function to call with the pages done and the pages to do.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with _bar("looking") as update:
        yield lambda done, total: update(done * PAGE_SIZE, total * PAGE_SIZE)


@contextmanager
def separating(total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of work on ``total`` bytes.

    Yields a function to call with the bytes done since its last call. If standard error is not a
    terminal, it prints a line every second, and one at the end.
    """
    done = 0
    with _bar("separating", total) if sys.stderr.isatty() else _lines("separating") as update:

        def tell(count: int) -> None:
            nonlocal done
            done += count
            update(done, total)

        yield tell


@contextmanager
def _bar(what: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar, which disappears at the end; ``total`` in bytes, if it is known at the start.

    Yields a function to call with the bytes done and the bytes in all.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (what, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _lines(what: str) -> Iterator[Callable[[int, int], None]]:
    """Print lines, the first one at once; yields a function as ``_bar`` does."""
    after = 0.0

    def update(done: int, total: int) -> None:
        nonlocal after
        if time.monotonic() >= after or done >= total:
            print(f"{what}: {size(done)} of {size(total)}", file=sys.stderr, flush=True)
            after = time.monotonic() + EVERY

    yield update
