"""What the ``[hub]`` table of a configuration may say."""

from __future__ import annotations

from typing import Annotated

import msgspec

Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
"""A share of one core."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a hub."""

    looks: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    """Looks that must see the same bytes, some time apart, before a page is merged, the compare of
    the merge among them; 1 merges at first sight."""
    least_run: Annotated[int, msgspec.Meta(ge=1, le=512)] = 1
    """Shortest run of pages worth a mapping; more for programs that fork."""
    cpu_percent: Percent = 50
    """Share of one core that the hub may use over time; what clients ask for is done at once, and
    merging in the background rests for it."""
    dead_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Slabs of which more than this is dead are emptied, so that their memory comes back."""
    store_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of the hub's memory cgroup that the store may fill, where the cgroup has a limit."""
    client_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of that (without a limit: of the host's memory) that one process may fill."""
    user_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of that which all processes of one user may fill, where it is not the hub's own."""
    longest_hold: Annotated[float, msgspec.Meta(ge=0, le=2048)] = 1024
    """Seconds for which a page that is written soon after each merge has to stay as it is before it
    is merged again, at the most. They grow with each time from 2 on. 0: it is merged at once."""
    idle_percent: Percent = 0.1
    """Share of one core for what yields little: the few pages that change in programs that do
    nothing much. What is left of ``cpu_percent`` is for work that yields more."""
    longest_pause: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 2
    """Seconds between cycles when nothing changes."""
