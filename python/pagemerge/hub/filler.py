"""Fills new slabs from pages of clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from pagemerge.errors import AccessDenied, PagemergeError
from pagemerge.hub.client import Client
from pagemerge.hub.decide.blocks import leading
from pagemerge.hub.domain import Filling, Members
from pagemerge.hub.gentle import Gentle
from pagemerge.hub.model import NO_SLOT
from pagemerge.hub.quota import Quota
from pagemerge.hub.turns import work_in
from pagemerge.linux.fault import told
from pagemerge.model import PAGE_SIZE

log = logging.getLogger("pagemerge.hub")
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


class Filler:
    """Copies pages of the clients of a domain into slabs, in a thread that the hub gives up when a
    client makes it wait."""

    def __init__(self, members: Members, quota: Quota, gentle: Gentle) -> None:
        self._members, self._quota, self._gentle = members, quota, gentle
        self._builder: ThreadPoolExecutor | None = None

    async def provide(
        self,
        clients: Sequence[Client],
        whose: U64,
        addresses: U64,
        digests: U64,
        *,
        whole: int = 0,
        awaited: bool = False,
    ) -> tuple[U32, Bools]:
        """Provide slots for pages of clients, and fill those that the store lacks.

        ``whose``: the number in ``clients`` of each page's owner; ``digests``: the expected digests
        of the pages, all different; at most as many as a slab has pages; ``whole``: blocks at the
        start that should be huge pages. Returns the slot of each
        page, or ``NO_SLOT``, and which pages changed before they were copied. ``awaited``: as for
        ``Patience.limit``, the time to wait for a slab. Pages that were not copied in that time
        count as changed then, so that the caller tries again.
        """
        store, fillings = self._members.store, self._members.fillings
        await self._wait_for_others(digests)
        slots, changed = store.find(digests), np.zeros(len(digests), np.bool_)
        new = np.flatnonzero(slots == NO_SLOT)
        if len(new) == 0:
            return slots, changed
        filling = Filling(digests[new])
        fillings.append(filling)
        try:
            changed[new] = await self._fill(
                clients, whose[new], addresses[new], digests[new], whole, awaited
            )
        finally:
            fillings.remove(filling)
            filling.done.set()
        # A slot found above may be gone meanwhile, and its number may belong to another slot.
        return store.find(digests), changed

    def close(self) -> None:
        """Let the thread end after its work."""
        if self._builder is not None:
            self._builder.shutdown(wait=False)
            self._builder = None

    async def _wait_for_others(self, digests: U64) -> None:
        """Wait for other fillings with some of these contents, if they finish soon.

        Whoever has waited for the same one may have begun another: then this waits for that, too.
        """
        waited: list[Filling] = []
        while others := [
            it
            for it in self._members.fillings
            if it not in waited and np.isin(digests, it.digests).any()
        ]:
            waited.append(others[0])
            waiter = asyncio.ensure_future(others[0].done.wait())
            await asyncio.wait({waiter}, timeout=self._members.patience.seconds)
            waiter.cancel()

    async def _fill(
        self,
        clients: Sequence[Client],
        whose: U64,
        addresses: U64,
        digests: U64,
        whole: int,
        awaited: bool,
    ) -> Bools:
        """Fill new slots, in order; returns which pages changed before they were copied."""
        members, changed = self._members, np.zeros(len(whose), np.bool_)
        pids = np.array([client.pid for client in clients], np.uint64)[whose]
        fit = np.flatnonzero(self._quota.admit(members, pids))
        if len(fit) == 0:
            return changed
        pids, whose, addresses, digests = (it[fit] for it in (pids, whose, addresses, digests))
        seconds = members.patience.limit(awaited=awaited)
        # Some pages may have been left out.
        whole = self._gentle.blocks(leading(addresses, whose, whole))
        async with contextlib.nullcontext() if awaited else self._gentle.slice():
            future = await self._build(clients, whose, addresses, whole, seconds)
        if not future.done():
            # A donor makes the hub wait: give up the slab and the thread.
            future.add_done_callback(_discard)
            self.close()
            members.patience.spent()
            members.await_plan(len(pids))
            seconds = members.patience.limit(awaited=awaited)
            await _find_stuck(clients, whose, addresses, members.store.seed, seconds)
            changed[fit] = awaited
            return changed
        try:
            descriptor, slab, sealed, huge = future.result()
        except (PagemergeError, OSError, MemoryError) as error:
            # A donor has left the domain, or no descriptors or no memory are left.
            _dismiss(clients, error)
            members.await_plan(len(pids))
            log.warning("passing over a slab: %s", told(error))
            return changed
        self._gentle.note_blocks(whole, huge.bit_count())
        try:
            self._check_members(clients, whose)
            members.store.add(descriptor, slab, sealed, pids, huge=huge)
        except BaseException as error:
            os.close(descriptor)  # no client knows of it
            if not isinstance(error, PagemergeError):
                raise
            log.warning("passing over a slab: %s", error)
            members.await_plan(len(pids))
            return changed
        changed[fit[sealed != digests]] = True
        members.adopt(slab)
        return changed

    async def _build(
        self, clients: Sequence[Client], whose: U64, addresses: U64, whole: int, seconds: float
    ) -> Future[tuple[int, int, U64, int]]:
        cuts = np.flatnonzero((np.diff(addresses) != PAGE_SIZE) | (np.diff(whose) != 0)) + 1
        heads = np.concatenate(([0], cuts))
        counts = np.diff(np.append(heads, len(addresses))).astype(np.uint64)
        donors = np.unique(whose)
        peers = [clients[int(it)].peer for it in donors]
        number = np.searchsorted(donors, whose[heads]).astype(np.uint64)
        if self._builder is None:
            self._builder = ThreadPoolExecutor(1, thread_name_prefix="builder")
        starts, longest = addresses[heads], self._gentle.longest_block
        build = partial(self._members.store.build, peers, number, starts, counts, whole, longest)
        return await work_in(self._builder, build, seconds)

    def _check_members(self, clients: Sequence[Client], whose: U64) -> None:
        """Raise ``PagemergeError`` if an owner of copied pages is not in the domain any more."""
        for number in np.unique(whose).tolist():
            client = clients[number]
            client.check_open()
            if client not in self._members.clients:
                raise PagemergeError(f"process {client.pid} has left", pid=client.pid)


def _dismiss(clients: Sequence[Client], error: BaseException) -> None:
    """Disconnect the donor that is not what it was when it became a client."""
    if isinstance(error, AccessDenied):
        for client in clients:
            if client.pid == error.pid:
                client.link.close(str(error))


def _discard(future: Future[tuple[int, int, U64, int]]) -> None:
    """Close the descriptor of a slab that was given up, and is ready now."""
    if not future.cancelled() and future.exception() is None:
        os.close(future.result()[0])


async def _find_stuck(
    clients: Sequence[Client], whose: U64, addresses: U64, seed: int, within: float
) -> None:
    """Find which of several donors makes readers wait, by reading each of them alone. The hub
    leaves that donor out until it can be read again; the others stay.

    ``whose``: the number in ``clients`` of each page's owner.
    """

    async def read(number: int) -> None:
        page, client = np.empty(1, np.uint64), clients[number]
        for address in addresses[whose == number].tolist():
            work = partial(client.peer.digest_stretches, address, seed, page)
            await client.read_within(within, work)

    donors = np.unique(whose).tolist()
    await asyncio.gather(*map(read, donors), return_exceptions=True)
