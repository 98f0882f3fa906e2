"""Shows a demo: progress on a terminal while it runs, words and a table at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pagemerge.demo.outcome import Outcome
from pagemerge.demo.play import Tell
from pagemerge.figures import duration, number, size

WAYS = {
    "move": "by the hub in the background, each page held by UFFDIO_MOVE while it is compared",
    "write-protect": "by the hub in the background, each page write-protected while it is compared",
    "park": "by the hub in the background, all threads of a worker stopped while it compares",
    "intern": "by the workers, with pagemerge.intern on what they loaded",
}


@contextmanager
def progress() -> Iterator[Tell]:
    """Yield a ``Tell`` that draws on stderr; it draws nothing if that is not a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        task = bars.add_task("", total=None)

        def tell(what: str, part: float | None) -> None:
            total = None if part is None else 1.0
            bars.update(task, description=what, completed=part or 0.0, total=total)

        yield tell


def told(outcome: Outcome, console: Console) -> None:
    """Print ``outcome``: what was saved, what was done, the accounts, the cost, the proof."""
    text = f"{headline(outcome)}\n\n{loaded(outcome)}\n{way(outcome)}\n"
    wide = not console.is_terminal
    console.print(text, markup=False, soft_wrap=wide)
    console.print(table(outcome))
    console.print(f"\n{price(outcome)}\n{proof(outcome)}", markup=False, soft_wrap=wide)


def headline(outcome: Outcome) -> str:
    """Write the result in one line."""
    part = outcome.saved_bytes / max(outcome.before_bytes, 1)
    return (
        f"Merging saved {size(outcome.saved_bytes)} of {size(outcome.before_bytes)} ({part:.0%}) "
        f"in {number(outcome.workers, 'process', 'processes')}."
    )


def loaded(outcome: Outcome) -> str:
    """Write what the workers had in memory."""
    return (
        f"Each of {number(outcome.workers, 'worker')} loaded {size(outcome.loaded_bytes)} of real "
        f"files ({', '.join(outcome.sources)}), made {size(outcome.private_bytes)} of random "
        f"data, and kept writing {size(outcome.hot_bytes)} more."
    )


def way(outcome: Outcome) -> str:
    """Write how the memory was merged, and the reason."""
    return f"Merged {WAYS.get(outcome.barrier, outcome.barrier)}.\nReason: {outcome.why}."


def table(outcome: Outcome) -> Table:
    """Make a table of the kernel's accounts before and after, and of the expected savings."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("memory, by the kernel's accounts")
    for heading in ("before", "after", "saved", "expected"):
        drawn.add_column(heading, justify="right")
    before, after = outcome.before, outcome.after
    drawn.add_row(
        "memory of the workers, and the store",
        size(before.total_bytes),
        size(after.total_bytes),
        size(outcome.saved_bytes),
        size(outcome.expected_saved_bytes),
    )
    drawn.add_row("  of it the store", size(before.store_bytes), size(after.store_bytes))
    if before.cgroup_bytes is not None and after.cgroup_bytes is not None:
        used = before.cgroup_bytes, after.cgroup_bytes
        drawn.add_row("memory cgroup", size(used[0]), size(used[1]), size(used[0] - used[1]))
    if before.available_bytes is not None and after.available_bytes is not None:
        left = before.available_bytes, after.available_bytes
        drawn.add_row(
            "available on the host", size(left[0]), size(left[1]), size(left[1] - left[0])
        )
    return drawn


def price(outcome: Outcome) -> str:
    """Write the time, the processor time, and the pages that were merged for it."""
    merged = outcome.pages_shared + outcome.pages_sharing
    return (
        f"It took {duration(outcome.merge_seconds)}, and {duration(outcome.cpu_seconds)} of "
        f"processor time: {number(outcome.pages_shared, 'stable page')} in "
        f"place of {merged:,}, and {number(outcome.zero_pages, 'zero page')} given back."
    )


def proof(outcome: Outcome) -> str:
    """Write what was verified."""
    verified = (
        "Every page of every worker holds what was loaded"
        if not outcome.changed_pages
        else f"{number(outcome.changed_pages, 'page')} DIFFER from what was loaded"
    )
    writes = f"of {number(outcome.writes, 'page write')} meanwhile {outcome.lost_writes} were lost"
    separated = (
        "by the kernel's page table it has its own copy of each now, and no other page of any "
        "worker changed"
        if outcome.separated_after_write
        else "it did NOT get its own copy of all of them"
    )
    pages = number(outcome.written_pages, "shared page")
    return f"{verified}; {writes}.\nThen one worker wrote to {pages}: {separated}."
