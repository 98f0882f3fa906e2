"""The settings that the ``[hub]`` table of a configuration may have."""

from __future__ import annotations

from typing import Annotated

import msgspec

Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
"""A share of one core."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a hub."""

    looks: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    """Looks that must see the same bytes, some time apart, before a page is merged. The compare of
    the merge counts as one of them; 1 merges at first sight."""
    least_run: Annotated[int, msgspec.Meta(ge=1, le=512)] = 1
    """Shortest run of pages that is worth a mapping; a higher value suits programs that fork."""
    cpu_percent: Percent = 50
    """Share of one core that the hub may use over time. The hub serves requests of clients at once,
    and then merges less in the background."""
    dead_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """The hub empties slabs of which more than this share is dead, to free their memory."""
    store_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of the hub's memory cgroup that the store may fill, where the cgroup has a limit."""
    client_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of that (without a limit: of the host's memory) that one process may fill."""
    user_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of the same that the processes of one user may fill; the hub's user has no limit."""
    longest_hold: Annotated[float, msgspec.Meta(ge=0, le=2048)] = 1024
    """The most seconds for which a page that is written soon after each merge must stay unchanged
    before it is merged again. The time doubles with each such merge, from 2 on. 0: the hub merges
    the page again at once."""
    idle_percent: Percent = 0.1
    """Share of one core for work that yields little: the few pages that change in programs that are
    almost idle. The rest of ``cpu_percent`` is for work that yields more."""
    longest_pause: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 2
    """Seconds between cycles when nothing changes."""
