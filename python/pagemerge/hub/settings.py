"""The settings that the ``[hub]`` table of a configuration may have.

The docstrings are the reference of users: ``pagemerge config`` and docs/configuration.md show them.
The first sentence of each one must be clear without the others.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Percent = Annotated[float, msgspec.Meta(gt=0, le=100, extra={"unit": "percent of one core"})]
"""A share of one core."""
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
"""A fraction of something."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the hub, which is the user engine: it merges memory of programs that run under
    ``pagemerge run`` or use pagemerge from Python."""

    looks: Annotated[int, msgspec.Meta(ge=1, le=16, extra={"unit": "looks"})] = 2
    """Number of looks that must find the same bytes, some time apart, before a page is merged. The
    compare during the merge counts as one of them; 1 merges at first sight."""
    least_run: Annotated[int, msgspec.Meta(ge=1, le=512, extra={"unit": "pages"})] = 1
    """Fewest consecutive pages that are worth a mapping. A higher value suits programs that fork
    often."""
    huge_price: Annotated[int, msgspec.Meta(ge=0, le=512, extra={"unit": "pages"})] = 32
    """Fewest pages of a block of 2 MiB that must be worth merging for the block to lose its huge
    page. This is about memory that would have huge pages without pagemerge, because the program
    asks for them or the system gives them to all memory. Blocks of which the hub merges less are
    huge pages, and their duplicates stay. 0: no block is kept huge, and all duplicates are merged.
    """
    cpu_percent: Percent = 50
    """Processor time that the hub may use over time. The hub serves requests of clients at once,
    and then merges less in the background."""
    dead_share: Share = 0.5
    """The hub empties a slab of which more than this share is dead, to free its memory."""
    store_share: Share = 0.5
    """Share of the limit of the hub's memory cgroup that the store may fill. Without a limit, this
    key does not bound the store."""
    client_share: Share = 0.5
    """Share of what the store may fill that one process may fill. Where the hub's memory cgroup has
    no limit, it is a share of the host's memory."""
    user_share: Share = 0.5
    """Share of what the store may fill that all processes of one user may fill. Where the hub's
    memory cgroup has no limit, it is a share of the host's memory. The user that the hub runs as
    has no limit."""
    records_share: Share = 0.05
    """Share of memory, of the host or of the limit of the hub's memory cgroup, that the hub's
    records of pages may take. Beyond that, the hub forgets what it has seen of pages that are not
    merged, first where merging has long found nothing; so less is merged."""
    reserve_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Memory that must stay available even if every page that the hub has merged is written at
    once. Where it would not, the hub merges nothing more in the background. 0: no reserve."""
    longest_hold: Annotated[float, msgspec.Meta(ge=0, le=2048, extra={"unit": "seconds"})] = 1024
    """Longest time that a page must stay unchanged before it is merged again, if it was written
    soon after earlier merges. The time starts at 2 seconds and doubles with each such merge. 0: the
    hub merges the page again at once."""
    idle_percent: Percent = 0.1
    """Processor time for work that yields little: the few pages that change in programs that are
    almost idle. The rest of ``cpu_percent`` is for work that yields more."""
    again_percent: Percent = 5
    """Time that clients may spend on merging pages again that were merged before and written since,
    all clients of a domain together. Such a merge costs the program much more than the first one,
    and may not last either. 100: no limit."""
    pressure_percent: Annotated[
        float, msgspec.Meta(gt=0, le=100, extra={"unit": "percent of time"})
    ] = 5
    """Memory pressure (PSI, `some avg10`) from which on memory counts for more than processor time.
    The hub then merges pages at first sight and pauses for half a second at the most. If the host
    or the hub's own memory cgroup is short, it may also use a whole core."""
    available_percent: Annotated[
        float, msgspec.Meta(ge=0, le=100, extra={"unit": "percent of the memory"})
    ] = 10
    """Available memory, of the host or of the limit of a memory cgroup, below which memory counts
    for more than processor time, as under memory pressure. The cgroups of the hub and of its
    clients count."""
    latency_percent: Annotated[
        float, msgspec.Meta(ge=0, le=100, extra={"unit": "percent of time"})
    ] = 0
    """Part of the time in which other programs may wait for a processor while the hub merges in the
    background (PSI, ``/proc/pressure/cpu``). The hub then works in slices of about a millisecond,
    one at a time, and rests between them as long as needed. 0: no budget."""
    longest_pause: Annotated[float, msgspec.Meta(gt=0, le=3600, extra={"unit": "seconds"})] = 2
    """Longest time between two cycles when nothing changes."""
