"""Progress of a look at the pages of processes, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from pagemerge.find.reading import Progress


@contextmanager
def looking(what: str = "looking") -> Iterator[Progress]:
    """A progress bar on standard error, if somebody looks at it: ``what`` is being done."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (what, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done * PAGE_SIZE, total=total * PAGE_SIZE)

        yield update
