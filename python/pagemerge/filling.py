"""New slabs, filled from pages of clients."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pagemerge.errors import HubError, PagemergeError
from pagemerge.merge.user import DEADLINE, find_stuck
from pagemerge.model import NO_SLOT, PAGE_SIZE
from pagemerge.quota import Quota

if TYPE_CHECKING:
    from pagemerge.hub import Members

log = logging.getLogger("pagemerge.hub")
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]


class Filler:
    """Copies pages of clients into slabs, in a thread that is given up when one makes it wait."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="builder")

    async def fill(
        self, members: Members, pids: U64, addresses: U64, digests: U64
    ) -> tuple[U32, npt.NDArray[np.bool_]]:
        """Fill new slots, in order, from pages of clients; ``digests`` is what they should be.

        At most a slab of them. Returns the slot of each page, or ``NO_SLOT``, and which changed
        before they were copied.
        """
        store, fit = members.store, np.flatnonzero(self._quota.admit(members, pids))
        slots = np.full(len(pids), NO_SLOT, np.uint32)
        changed = np.zeros(len(pids), np.bool_)
        if len(fit) == 0:
            return slots, changed
        pids, addresses, digests = pids[fit], addresses[fit], digests[fit]
        cuts = np.flatnonzero((np.diff(addresses) != PAGE_SIZE) | (np.diff(pids) != 0)) + 1
        heads = np.concatenate(([0], cuts))
        counts = np.diff(np.append(heads, len(addresses))).astype(np.uint64)
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(
            self._builder, store.build, pids[heads], addresses[heads], counts
        )
        await asyncio.wait({future}, timeout=DEADLINE)
        if not future.done():
            # A donor makes us wait. Its slab comes to nothing; the thread is given up.
            future.add_done_callback(_discard)
            self._builder = ThreadPoolExecutor(1, thread_name_prefix="builder")
            await find_stuck(members.clients, pids, addresses, store.seed)
            return slots, changed
        try:
            _check_donors(members, pids)
            descriptor, slab, sealed = future.result()
        except (PagemergeError, OSError) as error:
            # A donor has left the domain, or there are no descriptors or no memory left.
            log.warning("passing over a slab: %s", error)
            _discard(future)
            return slots, changed
        places = store.add(descriptor, slab, sealed, pids).base + np.arange(len(sealed))
        good = sealed == digests
        slots[fit[good]] = places[good]
        changed[fit[~good]] = True
        members.born.add(slab)
        return slots, changed


def _check_donors(members: Members, pids: U64) -> None:
    """After pages were copied: raise unless their owners are in the domain still.

    A process that ran another program as another user meanwhile may have been read too far.
    """
    clients = {client.pid: client for client in members.clients}
    for pid in np.unique(pids).tolist():
        if pid not in clients:
            raise HubError(f"process {pid} has left", pid=pid)
        clients[pid].check_alive()


def _discard(future: asyncio.Future[tuple[int, int, U64]]) -> None:
    """A slab that was given up is ready after all."""
    if not future.cancelled() and future.exception() is None:
        os.close(future.result()[0])
