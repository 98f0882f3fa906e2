"""Quotas at work: what the kernel says a hub may have, what its stores hold, and who is told."""

from __future__ import annotations

import logging
import os
import resource
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pagemerge.hub.client import Client
from pagemerge.hub.decide import shares
from pagemerge.hub.decide.shares import Verdict
from pagemerge.linux.accounts import cgroup_limit_bytes
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from pagemerge.hub.domain import Members
    from pagemerge.hub.hub import Hub

U64 = npt.NDArray[np.uint64]
log = logging.getLogger("pagemerge.hub")

_HOST = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
_REASONS = {Verdict.OVER_QUOTA: "over_quota", Verdict.STORE_FULL: "store_full"}
"""As ``status`` calls them, beside what agents leave alone."""


class Quota:
    """Of all domains of a hub together."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._told: set[Verdict] = set()

    def admit(self, members: Members, donors: U64) -> npt.NDArray[np.bool_]:
        """Which of some new slots may be filled from these processes; the rest is accounted for."""
        if len(donors) == 0:
            return np.ones(0, np.bool_)
        verdict = self._judge(members, donors)
        for client in members.clients:
            mine = verdict[donors == client.pid]
            for one, reason in _REASONS.items():
                client.skipped[reason] += int(np.count_nonzero(mine == one))
        admitted: npt.NDArray[np.bool_] = verdict == Verdict.ADMITTED
        members.short += int(np.count_nonzero(~admitted))
        return admitted

    def forget(self, client: Client) -> None:
        """What a client could not fill counts anew from here on: a new request, or a new plan."""
        for reason in _REASONS.values():
            client.skipped[reason] = 0

    def may_hand_back(self, members: Members, client: Client, pages: int) -> bool:
        """May a slab of another hub's be taken in from this client?"""
        donors = np.full(pages, client.pid, np.uint64)
        most = self._limits(members).slabs_of_one
        return len(client.given) < most and not self._judge(members, donors).any()

    def freed(self) -> None:
        """A store has become smaller: who had to wait may try again."""
        for members in self._hub.domains.values():
            members.pending += members.short
            members.short = 0

    def _judge(self, members: Members, donors: U64) -> npt.NDArray[np.uint8]:
        uid, domains = members.domain.uid, self._hub.domains.values()
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
        settings = self._hub.settings
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
