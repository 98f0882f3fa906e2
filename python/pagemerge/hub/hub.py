"""The hub: find, decide, merge, watch, over and over, for the clients of each trust domain.

``Hub.cycle`` is the whole idea. ``Hub.intern`` is the same for pages that a client wants merged
at once, because nobody writes them yet. Who connects, and what they say, is in ``service``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.errors import PagemergeError, ProtocolError
from pagemerge.hub import wire
from pagemerge.hub.boundary import pass_over
from pagemerge.hub.client import Client
from pagemerge.hub.decide import pace, plan, restless
from pagemerge.hub.decide.trust import Domain
from pagemerge.hub.domain import Budget, Members
from pagemerge.hub.looking import candidates, check_separated, due, look, note
from pagemerge.hub.model import NO_SLOT, OWN_SLOT, ZERO_SLOT, Planned, Runs
from pagemerge.hub.patience import Patience
from pagemerge.hub.quota import Quota
from pagemerge.hub.settings import Settings
from pagemerge.hub.stages import Stages, lay_out
from pagemerge.hub.tidy import tidy
from pagemerge.hub.turns import breathe
from pagemerge.linux.fault import told
from pagemerge.linux.text import plain
from pagemerge.model import ABSENT, PAGE_SIZE, ZERO

log = logging.getLogger("pagemerge.hub")
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

OnPlan = Callable[[Domain, tuple[Planned, ...]], None]

MOST_INTERN = 4096
"""Pages that one request may ask for (16 MiB); agents ask for no more."""

SMALL = 512
"""Pages of a request (2 MiB) that waits for no larger one of the same user."""

MOST_PLANNED = 8192
"""Pages of a plan that a client is told of at once: scattered, they take it some 50 ms, and an
answer that takes too long is taken for none."""

GLANCE = 0.02
"""Seconds after which the hub looks whether those it waits for are late."""

MOST_GONE = 1 << 16
"""Dropped slabs whose domain is remembered."""


class Hub:
    """Scans the clients' memory and decides what they merge."""

    def __init__(self, settings: Settings, on_plan: OnPlan | None = None) -> None:
        self.settings = settings
        self.on_plan = on_plan
        """Dry run: gets each plan, which is not carried out then."""
        self.domains: dict[Domain, Members] = {}
        self.quota = Quota(self)
        self.full_scans = 0
        self.started = time.monotonic()
        self.most_vain = restless.most_vain(settings.longest_hold)
        self.budget = Budget(settings.cpu_percent / 100, settings.idle_percent / 100)
        self._loops: set[asyncio.Task[None]] = set()
        # More at once than there are processors would only need more buffers. One user's readers
        # may be made to wait: they keep no turns from others.
        self._turns: dict[tuple[int, bool], asyncio.Semaphore] = {}
        self._most_mappings = int(Path("/proc/sys/vm/max_map_count").read_bytes())
        self._gone: dict[int, Domain] = {}
        """Slabs that were dropped -> the domain that they were of, the oldest first."""

    @property
    def clock(self) -> int:
        """Seconds since the start: the clock of what is remembered of pages."""
        return int(time.monotonic() - self.started)

    def enter(self, domain: Domain) -> Members:
        """The members of a domain, which is served from now on until it is over."""
        if domain not in self.domains:
            members = Members(domain, quota=self.quota)
            members.cycles = self.full_scans
            self.domains[domain] = members
            task = asyncio.create_task(self._serve(members))
            self._loops.add(task)
            task.add_done_callback(self._loops.discard)
        return self.domains[domain]

    def forget(self, domain: Domain, slabs: Iterable[int]) -> None:
        """Slabs of a domain were dropped: nobody may bring them into another."""
        for slab in slabs:
            self._gone[slab] = domain
        while len(self._gone) > MOST_GONE:
            del self._gone[next(iter(self._gone))]

    def is_foreign(self, domain: Domain, slab: int) -> bool:
        """Is, or was, this a slab of another domain?"""
        if self._gone.get(slab, domain) != domain:
            return True
        return any(slab in it.store.slabs for key, it in self.domains.items() if key != domain)

    async def _serve(self, members: Members) -> None:
        """Cycle until the domain is over; pauses grow while little changes.

        Each domain has a loop of its own: nobody in one waits for somebody in another.
        """
        pause = 0.0
        while not members.is_over or pause == 0.0:
            members.wake = asyncio.Event()
            try:
                found = await self.cycle(members)
            except Exception as error:
                # Not of one client, or it would have ended there: a fault of the hub's own.
                log.error("a cycle of %s failed: %s", members.domain, told(error))
                found = 0
            members.cycles += 1
            members.patience.recover()
            self.full_scans = max(self.full_scans, members.cycles)
            # A hub that waits as long as it may looks in any case; all else has to be worth it.
            waits = found == 0 and pause >= self.settings.longest_pause
            rest = self.budget.rest(is_spare=found <= pace.FEW and not waits)
            await members.rest(rest)
            pause = pace.pause(pause, self._weight(found), self.settings.longest_pause)
            # Not wait_for: until Python 3.12 it may swallow the cancellation that ends the hub.
            waiter = asyncio.ensure_future(members.wake.wait())
            woken, _ = await asyncio.wait({waiter}, timeout=max(pause - rest, 0.0))
            waiter.cancel()
            if woken:
                pause = 0.0
        members.filler.close()
        self.domains.pop(members.domain, None)

    def _weight(self, found: float) -> float:
        """As many as were found, or infinite where there is time to go on for any."""
        return inf if found and self.budget.has_spare else found

    async def cycle(self, members: Members) -> float:
        """Merge what the looks so far have found, and look at every client once. Returns the pages
        that were merged, or have become worth it; infinite where there are new regions.

        In this order the compare of a merge is the last look that a page needs: an unchanged page
        is read once, not twice. Who wants merging at first sight has it the other way round.
        """
        at_first_sight = self.settings.looks == 1
        merged = 0 if at_first_sight else await self._decide(members)
        before = members.pending
        fresh = await self._visit_all(members)
        found = inf if fresh else members.pending - before
        if self._weight(found) > pace.FEW:
            for client in list(members.clients):
                for region in list(client.regions.values()):
                    await breathe()
                    pace.recall(region.pages)
        if at_first_sight:
            merged = await self._decide(members)
        await tidy(self, members)
        return max(found, merged)

    async def _visit_all(self, members: Members) -> bool:
        """Look at all clients; true if one of them has new regions, a reason to look again soon.

        Whoever keeps us waiting is looked at as well, but nobody waits for it: its turn goes on
        beside the next cycles, and ends the pause between two of them. Who owes us an answer gets
        no turn: it would end at once, and cycle would follow cycle as long as it is silent.
        """
        for client in members.clients:
            if client.turn is None and client.is_ready:
                client.turn = asyncio.create_task(self._visit(members, client))
        while True:
            turns = {
                it.turn
                for it in members.clients
                if it.turn is not None and not it.turn.done() and not it.is_late
            }
            if not turns:
                break
            await asyncio.wait(turns, timeout=GLANCE)
        fresh = False
        for client in members.clients:
            if client.turn is None:
                continue
            if client.turn.done():
                fresh |= client.turn.result()
                client.turn = None
            else:
                client.turn.remove_done_callback(members.rouse)
                client.turn.add_done_callback(members.rouse)
        return fresh

    async def _decide(self, members: Members) -> int:
        """Merge what is known to be worth it, if enough is new; returns the pages merged."""
        clients = [it for it in members.clients if it.is_ready and it.has_barrier]
        for client in clients:
            members.pending += client.missed
            client.missed = 0
        if not members.pending or not (self.budget.has_spare or members.is_worth_a_plan):
            return 0
        members.pending = 0
        for client in list(members.clients):
            if client.has_barrier and client not in clients:
                client.missed = len((await candidates([client], self.settings.looks)).digest)
        found = await candidates(clients, self.settings.looks)
        layout = lay_out(members, found)
        if self.on_plan is not None:
            pids = [client.pid for client in clients]
            self.on_plan(members.domain, plan.describe(found, layout, pids, _core.SLAB_PAGES))
            return 0
        return await Stages(self, members, found, layout).run(clients)

    async def _visit(self, members: Members, client: Client) -> bool:
        """Find: look at one client. True if it has new regions."""
        if not client.is_ready:
            return False
        try:
            fresh = await client.refresh()
            if client.adopting:
                await client.adopt_mappings(members.store)
            if not client.has_barrier:
                await check_separated(client)
                return False
            async for asked in due(client):
                async with self.turn(members.domain.uid):
                    seen = await look(client, asked, members.store.seed)
                looks, vain = self.settings.looks, self.most_vain
                found = await note(client, seen, looks, self.clock, vain)
                members.pending += found  # read after the wait: others add to it meanwhile
            return fresh
        except Exception as error:
            pass_over(client, error)
        return False

    def turn(self, uid: int, is_large: bool = False) -> asyncio.Semaphore:
        """To be held while memory of this user's is read; large requests leave room for small."""
        if (uid, is_large) not in self._turns:
            processors = len(os.sched_getaffinity(0))
            most = max(processors // 2, 1) if is_large else processors
            self._turns[uid, is_large] = asyncio.Semaphore(most)
        return self._turns[uid, is_large]

    async def carry_out(self, members: Members, client: Client, address: U64, slot: U32) -> int:
        """Have a client map slots, pages in order of address; returns how many pages it did."""
        merged = 0
        try:
            least = self.settings.least_run
            address, slot, runs = await self._send_slabs(members, client, address, slot, least)
            for some, pages in plan.parts(runs["pages"], MOST_PLANNED):
                note = partial(self._note_late, members, client, address[pages], slot[pages])
                body = await client.ask(
                    wire.Kind.MERGE, runs[some].tobytes(), members.patience.seconds, note
                )
                merged += self._note(client, body, address[pages], slot[pages])
        except Exception as error:
            members.pending += len(address)
            pass_over(client, error)
        return merged

    def _note_late(
        self, members: Members, client: Client, address: U64, slot: U32, body: bytes
    ) -> None:
        """The report of a merge that nobody waits for any more: what is mapped is mapped."""
        try:
            self._note(client, body, address, slot)
        except Exception as error:
            pass_over(client, error)
        client.tardy = False
        members.wake.set()

    async def _send_slabs(
        self,
        members: Members,
        client: Client,
        address: U64,
        slot: U32,
        least: int,
        within: float | None = None,
    ) -> tuple[U64, U32, npt.NDArray[np.void]]:
        """Give a client the slabs of a plan; returns its pages, their slots, and its runs."""
        slab, place = members.store.locate(slot)
        slab[slot == OWN_SLOT] = _core.WIRE_OWN
        runs = plan.runs(address, slot, slab)
        kept = await self.affordable(client, runs, slab, least, within)
        # Counting took a while: a slab that nobody mapped any more may be gone.
        there = [0, _core.WIRE_OWN, *members.store.slabs]
        kept = kept[np.isin(slab[runs.first[kept]], np.array(there, np.uint64))]
        first, pages = runs.first[kept], runs.pages[kept]
        client.room -= int(np.count_nonzero(slab[first]))
        client.skipped["over_budget"] += int(runs.pages.sum() - pages.sum())
        used = np.unique(slab[first])
        client.give(members.store.slabs[int(it)] for it in used if int(it) in members.store.slabs)
        rows = wire.runs(address[first], slab[first], place[first], pages)
        chosen = plan.pages_of(runs, kept)
        return address[chosen], slot[chosen], rows

    async def affordable(
        self, client: Client, runs: Runs, slab: U64, least: int, within: float | None = None
    ) -> I64:
        """Which runs a client has mappings for, the longest first. Raises as ``Client.read``."""
        costs = slab[runs.first] != 0
        wanted = int(np.count_nonzero(costs))
        budget = await client.budget(wanted, self._most_mappings, within)
        return plan.within_budget(runs, costs, budget, least)

    def _note(self, client: Client, body: bytes, address: U64, slot: U32) -> int:
        """Watch: remember what a client has merged, and what not."""
        refused = client.skipped["refused"]
        merged = client.note_merged(body, address, slot)
        # Refused for no lasting reason (threads that did not stop in time): once more, soon.
        is_refused = client.skipped["refused"] > refused
        again = is_refused and not client.note
        for region, part, index in client.locate(address):
            good = merged[part]
            region.pages.digest[index[good]] = ABSENT
            restless.begin(region.pages, index[good])
            pace.reward(region.pages, index if again else index[good])
            if is_refused:  # which is no page's own fault
                restless.begin(region.pages, index[~good])
            else:
                restless.begin_anew(region.pages, index[~good], self.most_vain)
        return int(np.count_nonzero(merged))

    async def intern(
        self, members: Members, client: Client, sequence: int, asked: tuple[int, ...]
    ) -> None:
        """Merge pages of a client at once; what the store does not have yet, it gets from them."""
        source, target, pages, region = asked
        if self.on_plan is not None:
            client.births.pop(sequence)
            client.link.send(wire.Kind.REFUSED, sequence, b"the hub runs dry: it merges nothing")
            return
        if not 0 < pages <= MOST_INTERN or target % PAGE_SIZE:
            raise ProtocolError("a request to merge that no agent makes")
        try:
            if region not in client.regions:
                await client.refresh(awaited=True)
            seen = np.empty(pages, np.uint64)
            # One at a time of each client; large ones of one user take turns.
            async with client.asking, self.turn(members.domain.uid, pages > SMALL):
                await client.read(client.peer.digest_stretches, source, members.store.seed, seen)
            offset = np.arange(pages, dtype=np.uint64) * np.uint64(PAGE_SIZE)
            wanted, donors = np.unique(seen, return_index=True)
            donors = np.sort(donors[wanted > ZERO])
            there = members.store.next_slot
            self.quota.forget(client)
            await members.filler.provide(
                members,
                [client],
                np.zeros(len(donors), np.uint64),
                offset[donors] + np.uint64(source),
                seen[donors],
                within=Patience.LONGEST,  # nobody else waits, however short of patience they are
            )
            members.grown += max(members.store.next_slot - there, 0)
            slot = np.where(seen == ZERO, np.uint32(ZERO_SLOT), members.store.find(seen))
            mine = np.flatnonzero(slot != NO_SLOT)
            address = offset[mine] + np.uint64(target)
            address, slot, runs = await self._send_slabs(
                members, client, address, slot[mine], least=1, within=Patience.LONGEST
            )
            client.births[sequence] = (address, slot)
            client.link.send(wire.Kind.MERGE, sequence, runs.tobytes())
        except ProtocolError:
            raise
        except Exception as error:
            client.births.pop(sequence, None)
            client.link.send(wire.Kind.REFUSED, sequence, plain(str(error), 1000).encode())
            if not isinstance(error, (PagemergeError, OSError)):
                pass_over(client, error)

    def note_birth(
        self, members: Members, client: Client, planned: tuple[U64, U32], body: bytes
    ) -> None:
        """The report of a merge at birth.

        Others may hold the same pages for long, and had nobody to share them with until now.
        """
        self._note(client, body, *planned)
        members.pending += members.grown
        members.grown = 0
