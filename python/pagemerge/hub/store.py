"""The store of one trust domain: its slabs, and which digest lies in which slot.

Slots are numbered across all slabs of a domain. A number is used again only after its slab has been
dropped, and a slab is dropped only when no record refers to a slot of it.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.hub.model import NO_SLOT
from pagemerge.model import PAGE_SIZE, ZERO

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

LARGE = 1 << 16
"""Digests that fit into a processor's cache."""

AT_ONCE = 1 << 18
"""The most digests that are sorted at once before they are looked up, because sorting takes memory.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """A sealed memory file of stable pages."""

    id: int
    """Its inode number, by which hub and agents name it."""
    descriptor: int
    base: int
    """Number of its first slot."""
    pages: int
    heads: U32
    """u32[r]: the first slot, counted from 0, of each run that one process has filled."""
    donors: U32
    """u32[r]: the process that filled each run, or that handed the slab back."""
    huge: int
    """One bit for each block of 512 slots: set if it is one huge page."""

    def filled(self) -> Counter[int]:
        """Return how many slots each process has filled."""
        counts: Counter[int] = Counter()
        for donor, pages in zip(self.donors, np.diff(self.heads, append=self.pages), strict=True):
            counts[int(donor)] += int(pages)
        return counts


class Store:
    """Slabs and their index: 12 bytes a slot."""

    def __init__(self) -> None:
        self.seed = secrets.randbits(64)
        """Seed of the digests; secret, so that no process can prepare pages whose digests collide.
        """
        self.slabs: dict[int, Slab] = {}
        self.held: Counter[int] = Counter()
        """Process -> number of slots that were filled from it."""
        self._retired: set[int] = set()
        """Slabs of which the index lacks slots that no client mapped."""
        self._digests: U64 = np.empty(0, np.uint64)
        self._slots: U32 = np.empty(0, np.uint32)

    def add(
        self,
        descriptor: int,
        slab: int,
        digests: U64,
        donors: U64 | U32,
        *,
        huge: int = 0,
    ) -> Slab:
        """Add a sealed slab; from now on the store owns its descriptor.

        ``donors``: the process that each slot was filled from. ``huge`` as in ``Slab``. If this
        raises an error, the descriptor still belongs to the caller.
        """
        heads = np.flatnonzero(np.diff(donors, prepend=donors[:1] + 1)).astype(np.uint32)
        whose, base = donors[heads].astype(np.uint32), self._room(len(digests))
        made = Slab(slab, descriptor, base, len(digests), heads, whose, huge)
        held = made.filled()
        self._publish(made, digests)  # first: without memory it fails, and changes nothing
        self.slabs[slab] = made
        self.held += held
        return made

    def _publish(self, slab: Slab, digests: U64) -> None:
        """Have ``find`` return the slots of a slab, which have these digests.

        Of equal contents it returns what was published first; another one takes its place.
        """
        useful = np.flatnonzero(digests > ZERO)
        useful = useful[np.argsort(digests[useful], kind="stable")]
        self._insert(digests[useful], (useful + slab.base).astype(np.uint32))

    def _insert(self, new: U64, slots: U32) -> None:
        """Add slots to the index, behind those with the same digest; in order of digest."""
        # Sorting them together with all the others takes six times as long.
        at = np.searchsorted(self._digests, new, side="right")
        self._digests, self._slots = (
            np.insert(self._digests, at, new),
            np.insert(self._slots, at, slots),
        )

    def build(
        self,
        peers: Sequence[_core.Peer],
        whose: U64,
        starts: U64,
        pages: U64,
        whole: int = 0,
        longest: float = inf,
    ) -> tuple[int, int, U64, int]:
        """Copy runs of pages of clients into a new sealed slab: descriptor, id, digests, and which
        of its blocks are huge pages (as ``Slab.huge``).

        ``whose``: the number of the peer that each run belongs to; ``whole``: blocks at the start
        of the slab that should be huge pages, and none after one that took the kernel more than
        ``longest`` seconds. This reads other processes, which may make it wait: call it in a thread
        that a deadline can abandon. The slab is not in the store yet; ``add`` it. Digests come from
        the sealed bytes. Raises ``AccessDenied`` if one of the peers is not what it was when it
        became a client; then no slab has been made.
        """
        descriptor, slab, digests, huge = _core.build_slab(
            list(peers), whose, starts, pages, self.seed, (whole, longest)
        )
        return descriptor, slab, np.frombuffer(digests, np.uint64), huge

    def find(self, digests: U64) -> U32:
        """Return the slot of each digest, or ``NO_SLOT``."""
        if len(self._digests) == 0:
            return np.full(len(digests), NO_SLOT, np.uint32)
        at = np.empty(len(digests), np.int64)
        for first in range(0, len(digests), AT_ONCE):
            some = digests[first : first + AT_ONCE]
            # In a large index, sorted digests find their neighbours in the processor's cache.
            order = np.argsort(some) if len(self._digests) > LARGE else slice(None)
            at[first : first + AT_ONCE][order] = np.searchsorted(self._digests, some[order])
        at[at == len(self._digests)] = 0
        return np.where(self._digests[at] == digests, self._slots[at], np.uint32(NO_SLOT))

    def locate(self, slots: U32) -> tuple[U64, U32]:
        """Return the slab ids of slots, and their places in the slab; 0 and 0 for numbers that are
        no slot (any more)."""
        slabs = self._in_order()
        if not slabs or len(slots) == 0:
            return np.zeros(len(slots), np.uint64), np.zeros(len(slots), np.uint32)
        bases = np.array([slab.base for slab in slabs], np.uint32)
        ends = bases + np.array([slab.pages for slab in slabs], np.uint32)
        ids = np.array([slab.id for slab in slabs], np.uint64)
        at = np.searchsorted(bases, slots, side="right") - 1
        inside = (at >= 0) & (slots < ends[at])
        place = np.where(inside, slots - bases[at], np.uint32(0))
        return np.where(inside, ids[at], np.uint64(0)), place

    def copy(self, slots: U32) -> tuple[int, int, U64]:
        """Copy slots of any slabs into a new slab: descriptor, id and digests."""
        ids, places = self.locate(slots)
        descriptors = np.array([self.slabs[int(it)].descriptor for it in ids], np.uint64)
        descriptor, slab, digests = _core.copy_slots(
            descriptors, places.astype(np.uint64), self.seed
        )
        return descriptor, slab, np.frombuffer(digests, np.uint64)

    def donors(self, slots: U32) -> U32:
        """Return the process that each of these slots was filled from."""
        ids, places = self.locate(slots)
        whose = np.empty(len(slots), np.uint32)
        for slab in (self.slabs[int(it)] for it in np.unique(ids)):
            mine = ids == slab.id
            run = np.searchsorted(slab.heads, places[mine], side="right") - 1
            whose[mine] = slab.donors[run]
        return whose

    def retire(self, slots: U32) -> None:
        """Have ``find`` return none of these slots any more; ``locate`` still finds them."""
        ids, _ = self.locate(slots)
        self._retired.update(np.unique(ids).tolist())
        self._leave_out(slots)

    def put_last(self, slots: U32) -> None:
        """Have ``find`` return other slots with the contents of these, as long as there are any."""
        self._insert(*self._leave_out(slots))

    def is_retired(self, slab: int) -> bool:
        """Return true if ``find`` does not return all contents of a slab."""
        return slab in self._retired

    def reinstate(self, slab: Slab, digests: U64) -> None:
        """Have ``find`` return the slots of a retired slab again, which have these digests."""
        self._leave_out(_slots_of([slab]))
        self._publish(slab, digests)
        self._retired.discard(slab.id)

    def drop(self, slabs: Iterable[int]) -> None:
        """Forget slabs that no client shares; the kernel frees them with their last mapping."""
        known = [it for it in slabs if it in self.slabs]
        self._leave_out(_slots_of([self.slabs[it] for it in known]))
        self._retired.difference_update(known)
        for slab in map(self.slabs.pop, known):
            os.close(slab.descriptor)
            self.held -= slab.filled()

    @property
    def next_slot(self) -> int:
        """The number behind the last slot."""
        return max((slab.base + slab.pages for slab in self.slabs.values()), default=0)

    @property
    def bytes(self) -> int:
        """Memory that the slabs hold."""
        return sum(slab.pages for slab in self.slabs.values()) * PAGE_SIZE

    @property
    def metadata_bytes(self) -> int:
        """Memory that the index holds."""
        runs = sum(slab.heads.nbytes + slab.donors.nbytes for slab in self.slabs.values())
        return self._digests.nbytes + self._slots.nbytes + runs

    def _leave_out(self, slots: U32) -> tuple[U64, U32]:
        """Remove slots from the index; returns the digests and slots, in order of digest."""
        chosen = np.zeros(self.next_slot, np.bool_)
        chosen[slots] = True
        gone = chosen[self._slots]
        removed = self._digests[gone], self._slots[gone]
        self._digests, self._slots = self._digests[~gone], self._slots[~gone]
        return removed

    def _in_order(self) -> list[Slab]:
        return sorted(self.slabs.values(), key=lambda slab: slab.base)

    def _room(self, pages: int) -> int:
        """Return the first number from which ``pages`` numbers are free."""
        base = 0
        for slab in self._in_order():
            if slab.base - base >= pages:
                break
            base = slab.base + slab.pages
        return base


def _slots_of(slabs: Sequence[Slab]) -> U32:
    """Return the numbers of all slots of these slabs."""
    parts = [np.arange(slab.base, slab.base + slab.pages, dtype=np.uint32) for slab in slabs]
    return np.concatenate(parts or [np.empty(0, np.uint32)])
