"""Enforces limits across all domains of a hub, from its settings and the limits of the kernel."""

from __future__ import annotations

import logging
import os
import resource
from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pagemerge.hub.client import Client
from pagemerge.hub.decide import shares
from pagemerge.hub.decide.shares import Verdict
from pagemerge.hub.domain import Members
from pagemerge.hub.settings import Settings
from pagemerge.linux.accounts import cgroup_limit_bytes
from pagemerge.linux.domain import Domain
from pagemerge.model import PAGE_SIZE

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
log = logging.getLogger("pagemerge.hub")

_HOST = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
_REASONS = {Verdict.OVER_QUOTA: "over_quota", Verdict.STORE_FULL: "store_full"}
"""The names that ``status`` uses, beside the reasons of agents to leave pages alone."""


class Quota:
    """Decides which new slots may be filled, and why others may not."""

    def __init__(self, domains: Mapping[Domain, Members], settings: Settings) -> None:
        self._domains, self.settings = domains, settings
        self._told: set[Verdict] = set()

    def admit(self, members: Members, donors: U64) -> Bools:
        """Return which of some new slots may be filled from these processes: bool[n].

        ``donors`` u64[n]: the process that each slot would be filled from. Counts the refused ones.
        """
        if len(donors) == 0:
            return np.ones(0, np.bool_)
        verdict = self._judge(members, donors)
        refused = np.flatnonzero(verdict != Verdict.ADMITTED)
        if len(refused):
            self._tell(members, donors[refused], verdict[refused])
        return np.asarray(verdict == Verdict.ADMITTED)

    def _tell(self, members: Members, donors: U64, verdict: npt.NDArray[np.uint8]) -> None:
        """Count refused slots, for their donors and for the domain."""
        members.refuse(len(donors))
        for one, reason in _REASONS.items():
            pids, counts = np.unique(donors[verdict == one], return_counts=True)
            number = dict(zip(pids.tolist(), counts.tolist(), strict=True))
            for client in members.clients:
                client.leave_alone(reason, number.get(client.pid, 0))

    def forget(self, client: Client) -> None:
        """Reset the count of slots that a client could not fill: a new request or plan begins."""
        client.forget(*_REASONS.values())

    def may_hand_back(self, members: Members, client: Client, pages: int) -> bool:
        """Return true if this client may hand back a slab of another hub, of ``pages`` pages."""
        donors = np.full(pages, client.pid, np.uint64)
        most = self._limits(members).slabs_of_one
        return len(client.given) < most and not self._judge(members, donors).any()

    def freed(self) -> None:
        """Have all domains try again what was refused: a store has become smaller."""
        for members in self._domains.values():
            members.find_room()

    def _judge(self, members: Members, donors: U64) -> npt.NDArray[np.uint8]:
        uid, domains = members.domain.uid, self._domains.values()
        stores = [it.store for it in domains]
        held = sum((store.held for store in stores), Counter[int]())
        slabs = sum(len(store.slabs) for store in stores)
        # A process can fork, and choose names of domains, so the user is what counts.
        users = sum(it.store.held.total() for it in domains if it.domain.uid == uid)
        verdict = shares.judge(donors, held, slabs, self._limits(members), users)
        for one in {Verdict(it) for it in np.unique(verdict)} - {Verdict.ADMITTED} - self._told:
            self._told.add(one)  # once is enough for a log; ``status`` always shows it
            log.warning("%s: no new stable pages for now; see pagemerge status", self._words(one))
        return verdict

    def _limits(self, members: Members) -> shares.Limits:
        settings = self.settings
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Read each time: an admin may change the limit of a cgroup at any time.
        return shares.limits(
            cgroup_limit_bytes(),
            _HOST,
            descriptors,
            settings.store_share,
            settings.client_share,
            None if members.domain.uid == os.geteuid() else settings.user_share,
        )

    def _words(self, verdict: Verdict) -> str:
        if verdict is Verdict.OVER_QUOTA:
            return "a process has filled its share of the store (client_share or user_share)"
        return "the store has its share of this hub's memory cgroup (store_share) or descriptors"
