"""Decides how large the store may become, and how much of it a process or user may fill: pure
functions.

The kernel charges the store to the memory cgroup of the hub, not to the process that filled it. So
the store stops at a share of what the hub may have, and no process and no user may fill more than a
share of that, so that something is left for the others. The hub's own user has no such limit,
because all of the store belongs to that user. Merging into existing slots costs nothing, and goes
on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from pagemerge.model import PAGE_SIZE

U64 = npt.NDArray[np.uint64]


class Verdict(IntEnum):
    """Whether a new slot may be made, or why not."""

    ADMITTED = 0
    OVER_QUOTA = 1
    """The donor, or the user of the donor, has filled its share."""
    STORE_FULL = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of all stores of a hub together."""

    slots: int | None
    """Most slots; None: no limit."""
    slabs: int
    """Most slabs: each costs the hub a descriptor."""
    slots_of_one: int
    """Most slots that one process may be the donor of."""
    slabs_of_one: int
    """Most slabs that one process may hand back."""
    slots_of_user: int | None = None
    """Most slots that the processes of one user may be the donors of; None: no limit."""


def limits(
    memory: int | None,
    host: int,
    descriptors: int,
    store_share: float,
    client_share: float,
    user_share: float | None = None,
) -> Limits:
    """Return the limits of a hub.

    ``memory``: bytes that its cgroup may use, None for no limit; ``host``: bytes that the host
    has; ``descriptors``: RLIMIT_NOFILE; the shares: settings, 0 to 1; ``user_share`` None: users
    have no limit of their own.
    """
    slots = None if memory is None else int(memory * store_share) // PAGE_SIZE
    # Half of the descriptors are left for clients, which need two each, and for short-lived uses.
    slabs = descriptors // 2
    base = host // PAGE_SIZE if slots is None else slots
    of_user = None if user_share is None else int(base * user_share)
    return Limits(slots, slabs, int(base * client_share), int(slabs * client_share), of_user)


def judge(
    donors: U64, held: Mapping[int, int], slabs: int, most: Limits, users: int = 0
) -> npt.NDArray[np.uint8]:
    """Return a ``Verdict`` for each of some new slots: u8[n].

    ``donors`` u64[n]: the process that each slot would be filled from, in the order in which the
    slots would be made; ``held``: number of existing slots, by the process they were filled from;
    ``slabs``: number of existing slabs; ``users``: number of slots that were filled from processes
    of the same user.
    """
    verdict = np.full(len(donors), Verdict.ADMITTED, np.uint8)
    # Sorts instead of one pass for each donor: all domains wait meanwhile.
    who, which, counts = np.unique(donors, return_inverse=True, return_counts=True)
    order = np.argsort(which, kind="stable")
    rank = np.empty(len(donors), np.int64)
    rank[order] = np.arange(len(donors)) - np.repeat(np.cumsum(counts) - counts, counts)
    left = [max(most.slots_of_one - held.get(int(one), 0), 0) for one in who]
    verdict[rank >= np.array(left, np.int64)[which]] = Verdict.OVER_QUOTA
    if most.slots_of_user is not None:
        admitted = np.flatnonzero(verdict == Verdict.ADMITTED)
        verdict[admitted[max(most.slots_of_user - users, 0) :]] = Verdict.OVER_QUOTA
    admitted = np.flatnonzero(verdict == Verdict.ADMITTED)
    room = len(donors) if most.slots is None else max(most.slots - sum(held.values()), 0)
    verdict[admitted[room if slabs < most.slabs else 0 :]] = Verdict.STORE_FULL
    return verdict
