"""New slabs, filled from pages of clients."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pagemerge.errors import AccessDenied, PagemergeError
from pagemerge.hub.client import Client, find_stuck
from pagemerge.hub.model import NO_SLOT
from pagemerge.hub.quota import Quota
from pagemerge.hub.turns import work_in
from pagemerge.linux.fault import told
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from pagemerge.hub.domain import Members

log = logging.getLogger("pagemerge.hub")
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class Filling:
    """Slots that are being filled."""

    digests: U64
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Filler:
    """Copies pages of the clients of a domain into slabs, in a thread that is given up when one
    makes it wait."""

    def __init__(self, quota: Quota | None) -> None:
        self._quota = quota
        self._builder: ThreadPoolExecutor | None = None
        self.under_way: list[Filling] = []

    async def provide(
        self,
        members: Members,
        clients: Sequence[Client],
        whose: U64,
        addresses: U64,
        digests: U64,
        within: float | None = None,
    ) -> tuple[U32, Bools]:
        """Have slots for pages of clients; those that the store lacks are filled.

        ``whose``: the number in ``clients`` of each page's owner; ``digests`` is what the pages
        should be, each of them once; at most a slab of them. Returns the slot of each page, or
        ``NO_SLOT``, and which pages changed before they were copied. ``within``: seconds to wait
        for a slab, else as many as the domain has patience for.
        """
        await self._wait_for_others(members, digests)
        slots, changed = members.store.find(digests), np.zeros(len(digests), np.bool_)
        new = np.flatnonzero(slots == NO_SLOT)
        if len(new) == 0:
            return slots, changed
        filling = Filling(digests[new])
        self.under_way.append(filling)
        try:
            _, changed[new] = await self._fill(
                members, clients, whose[new], addresses[new], digests[new], within
            )
        finally:
            self.under_way.remove(filling)
            filling.done.set()
        # What was there before may be gone meanwhile, and its number be another's.
        return members.store.find(digests), changed

    def close(self) -> None:
        """Let the thread end."""
        if self._builder is not None:
            self._builder.shutdown(wait=False)
            self._builder = None

    async def _wait_for_others(self, members: Members, digests: U64) -> None:
        """Whoever fills slots with these contents already may finish, if it does so soon."""
        for other in list(self.under_way):
            if np.isin(digests, other.digests).any():
                waiter = asyncio.ensure_future(other.done.wait())
                await asyncio.wait({waiter}, timeout=members.patience.seconds)
                waiter.cancel()

    async def _fill(
        self,
        members: Members,
        clients: Sequence[Client],
        whose: U64,
        addresses: U64,
        digests: U64,
        within: float | None,
    ) -> tuple[U32, Bools]:
        """Fill new slots, in order. Returns as ``provide``."""
        pids = np.array([client.pid for client in clients], np.uint64)[whose]
        admitted = np.ones(len(pids), np.bool_)
        if self._quota is not None:
            admitted = self._quota.admit(members, pids)
        fit = np.flatnonzero(admitted)
        slots = np.full(len(pids), NO_SLOT, np.uint32)
        changed = np.zeros(len(pids), np.bool_)
        if len(fit) == 0:
            return slots, changed
        pids, whose, addresses, digests = (it[fit] for it in (pids, whose, addresses, digests))
        seconds = within or members.patience.seconds
        future = await self._build(members, clients, whose, addresses, seconds)
        if not future.done():
            # A donor makes us wait. Its slab comes to nothing; the thread is given up.
            future.add_done_callback(_discard)
            self.close()
            members.patience.spent()
            members.pending += len(pids)
            seconds = within or members.patience.seconds
            await find_stuck(clients, whose, addresses, members.store.seed, seconds)
            return slots, changed
        try:
            descriptor, slab, sealed = future.result()
        except (PagemergeError, OSError, MemoryError) as error:
            # A donor has left the domain, or there are no descriptors or no memory left.
            _dismiss(clients, error)
            members.pending += len(pids)
            log.warning("passing over a slab: %s", told(error))
            return slots, changed
        try:
            _check_members(members, clients, whose)
            places = members.store.add(descriptor, slab, sealed, pids).base
        except BaseException as error:
            os.close(descriptor)  # nobody has been told of it, and nobody will be
            if not isinstance(error, PagemergeError):
                raise
            log.warning("passing over a slab: %s", error)
            members.pending += len(pids)
            return slots, changed
        good = sealed == digests
        slots[fit[good]] = (places + np.arange(len(sealed)))[good]
        changed[fit[~good]] = True
        members.born.add(slab)
        return slots, changed

    async def _build(
        self,
        members: Members,
        clients: Sequence[Client],
        whose: U64,
        addresses: U64,
        seconds: float,
    ) -> Future[tuple[int, int, U64]]:
        cuts = np.flatnonzero((np.diff(addresses) != PAGE_SIZE) | (np.diff(whose) != 0)) + 1
        heads = np.concatenate(([0], cuts))
        counts = np.diff(np.append(heads, len(addresses))).astype(np.uint64)
        donors = np.unique(whose)
        peers = [clients[int(it)].peer for it in donors]
        number = np.searchsorted(donors, whose[heads]).astype(np.uint64)
        if self._builder is None:
            self._builder = ThreadPoolExecutor(1, thread_name_prefix="builder")
        build = partial(members.store.build, peers, number, addresses[heads], counts)
        return await work_in(self._builder, build, seconds)


def _check_members(members: Members, clients: Sequence[Client], whose: U64) -> None:
    """After pages were copied: raise unless their owners are in the domain still."""
    for number in np.unique(whose).tolist():
        client = clients[number]
        client.check_open()
        if client not in members.clients:
            raise PagemergeError(f"process {client.pid} has left", pid=client.pid)


def _dismiss(clients: Sequence[Client], error: BaseException) -> None:
    """A donor that is not what it was is no client any more."""
    if isinstance(error, AccessDenied):
        for client in clients:
            if client.pid == error.pid:
                client.link.close(str(error))


def _discard(future: Future[tuple[int, int, U64]]) -> None:
    """A slab that was given up is ready after all."""
    if not future.cancelled() and future.exception() is None:
        os.close(future.result()[0])
