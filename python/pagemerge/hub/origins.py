"""Remembers to which domain each slab belongs, or belonged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pagemerge.hub.domain import Members
from pagemerge.linux.domain import Domain

MOST_GONE = 1 << 16
"""The most dropped slabs whose domain is remembered."""


class Origins:
    """Keeps a client from bringing a slab of one domain into another."""

    def __init__(self, domains: Mapping[Domain, Members]) -> None:
        self._domains = domains
        self._gone: dict[int, Domain] = {}
        """Slabs that were dropped -> their domain, the oldest first."""

    def forget(self, domain: Domain, slabs: Iterable[int]) -> None:
        """Remember the domain of slabs that were dropped."""
        for slab in slabs:
            self._gone[slab] = domain
        while len(self._gone) > MOST_GONE:
            del self._gone[next(iter(self._gone))]

    def is_foreign(self, domain: Domain, slab: int) -> bool:
        """Return true if the slab belongs, or belonged, to another domain."""
        if self._gone.get(slab, domain) != domain:
            return True
        return any(slab in it.store.slabs for key, it in self._domains.items() if key != domain)
