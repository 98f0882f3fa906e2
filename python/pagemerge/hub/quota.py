"""Enforces limits across all domains of a hub: what the kernel lets it have, by its settings."""

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
from pagemerge.hub.decide.trust import Domain
from pagemerge.hub.domain import Members
from pagemerge.hub.settings import Settings
from pagemerge.linux.accounts import cgroup_limit_bytes
from pagemerge.model import PAGE_SIZE

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
log = logging.getLogger("pagemerge.hub")

_HOST = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
_REASONS = {Verdict.OVER_QUOTA: "over_quota", Verdict.STORE_FULL: "store_full"}
"""As ``status`` calls them, beside what agents leave alone."""


class Quota:
    """Says which new slots may be filled, and why others may not."""

    def __init__(self, domains: Mapping[Domain, Members], settings: Settings) -> None:
        self._domains, self._settings = domains, settings
        self._told: set[Verdict] = set()

    def foresee(self, members: Members, donors: U64) -> Bools:
        """Which of some new slots could be filled from these processes now: bool[n]."""
        if len(donors) == 0:
            return np.ones(0, np.bool_)
        return np.asarray(self._judge(members, donors) == Verdict.ADMITTED)

    def admit(self, members: Members, donors: U64) -> Bools:
        """As ``foresee``, for slots that are about to be filled; the refused ones are counted."""
        if len(donors) == 0:
            return np.ones(0, np.bool_)
        verdict = self._judge(members, donors)
        for client in members.clients:
            mine = verdict[donors == client.pid]
            for one, reason in _REASONS.items():
                client.leave_alone(reason, int(np.count_nonzero(mine == one)))
        admitted: Bools = verdict == Verdict.ADMITTED
        members.refuse(int(np.count_nonzero(~admitted)))
        return admitted

    def forget(self, client: Client) -> None:
        """What a client could not fill counts anew from here on: a new request, or a new plan."""
        client.forget(*_REASONS.values())

    def may_hand_back(self, members: Members, client: Client, pages: int) -> bool:
        """May a slab of another hub's be taken in from this client?"""
        donors = np.full(pages, client.pid, np.uint64)
        most = self._limits(members).slabs_of_one
        return len(client.given) < most and not self._judge(members, donors).any()

    def freed(self) -> None:
        """A store has become smaller: what was refused in any domain is tried again."""
        for members in self._domains.values():
            members.find_room()

    def _judge(self, members: Members, donors: U64) -> npt.NDArray[np.uint8]:
        uid, domains = members.domain.uid, self._domains.values()
        stores = [it.store for it in domains]
        held = sum((store.held for store in stores), Counter[int]())
        slabs = sum(len(store.slabs) for store in stores)
        # A process can fork, and choose names of domains: what counts is whose it is.
        users = sum(it.store.held.total() for it in domains if it.domain.uid == uid)
        verdict = shares.judge(donors, held, slabs, self._limits(members), users)
        for one in {Verdict(it) for it in np.unique(verdict)} - {Verdict.ADMITTED} - self._told:
            self._told.add(one)  # once is enough for a log; ``status`` has it all the time
            log.warning("%s: no new stable pages for now; see pagemerge status", self._words(one))
        return verdict

    def _limits(self, members: Members) -> shares.Limits:
        settings = self._settings
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Asked each time: an admin may change the limit of a cgroup at any time.
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
