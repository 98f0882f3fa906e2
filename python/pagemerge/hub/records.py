"""Keeps the memory of a hub's records of pages small, and within its bounds."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

import numpy as np

from pagemerge.hub.domain import Members
from pagemerge.hub.model import BLOCK
from pagemerge.hub.regions import Region
from pagemerge.hub.settings import Settings
from pagemerge.hub.turns import breathe
from pagemerge.linux.accounts import cgroup_limit_bytes
from pagemerge.linux.domain import Domain
from pagemerge.model import ABSENT, PAGE_SIZE

log = logging.getLogger("pagemerge.hub")

EVERY = 10.0
"""Seconds after which records that have changed are settled."""

MANY = 8192
"""Changed records of a region that are settled at once."""

QUIET = 4
"""Looks without a yield after which the records of a block are the first to be forgotten."""

ENOUGH = 0.8
"""Share of the bound to which records are taken down, so that this is not done all the time."""

_HOST = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE


class Records:
    """The records of all domains of a hub."""

    def __init__(self, domains: Mapping[Domain, Members], settings: Settings) -> None:
        self._domains, self.settings = domains, settings
        self._due = 0.0
        self._told = False

    async def settle(self, members: Members) -> None:
        """Free the records of a domain that say nothing any more. If all records take more than
        ``records_share``, forget digests that have long led to nothing, and then others."""
        now = time.monotonic()
        is_due = now >= self._due
        settled = 0
        for region in members.regions:
            if region.changed >= MANY or (is_due and region.changed):
                await breathe()
                region.settle()
                settled += 1
        if is_due:
            self._due = now + EVERY
        if settled and self._excess(1.0) > 0:
            await self._forget(members)

    def _excess(self, share: float) -> float:
        """Return the bytes that records take beyond a share of the bound."""
        records = sum(it.bytes for members in self._domains.values() for it in members.regions)
        bound = (cgroup_limit_bytes() or _HOST) * self.settings.records_share
        return records - bound * share

    async def _forget(self, members: Members) -> None:
        """Forget what looks have seen. Which pages map which slot, is never forgotten."""
        if not self._told:
            self._told = True
            log.warning(
                "the records of pages have their share of memory (records_share): what looks have "
                "seen is forgotten again, so less is merged"
            )
        for least in (QUIET, 0):
            for region in members.regions:
                if self._excess(ENOUGH) <= 0:
                    return
                await breathe()
                forget(region, least)


def forget(region: Region, least: int) -> None:
    """Forget the digests in blocks that have had ``least`` looks without a yield."""
    pages = region.pages
    quiet = np.repeat(pages.quiet >= least, BLOCK)[: len(region)]
    gone = np.flatnonzero(quiet & (pages.digest != ABSENT))
    pages.digest[gone], pages.standing[gone] = ABSENT, 0
    region.settle()
