"""The loop of the hub: find, decide, merge, tidy, for the clients of each trust domain.

``Hub.cycle`` is one round of it. ``birth`` does the same for pages that a client wants merged at
once. ``service`` and ``session`` handle connections and what clients send.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from math import inf

from pagemerge.hub import planning, report, reserve
from pagemerge.hub.adoption import adopt_mappings
from pagemerge.hub.boundary import pass_over
from pagemerge.hub.budget import Budget
from pagemerge.hub.client import Client
from pagemerge.hub.decide import pace
from pagemerge.hub.domain import Members
from pagemerge.hub.looking import candidates, check_separated, due, look, note, recall
from pagemerge.hub.merging import Merger
from pagemerge.hub.model import Planned, Status
from pagemerge.hub.origins import Origins
from pagemerge.hub.quota import Quota
from pagemerge.hub.readers import Readers
from pagemerge.hub.records import Records
from pagemerge.hub.reserve import Reserve
from pagemerge.hub.settings import Settings
from pagemerge.hub.shortage import Shortage
from pagemerge.hub.stages import Stages
from pagemerge.hub.tidy import tidy
from pagemerge.hub.whole import make_whole
from pagemerge.linux.domain import Domain
from pagemerge.linux.fault import told
from pagemerge.linux.process import most_mappings

log = logging.getLogger("pagemerge.hub")

OnPlan = Callable[[Domain, tuple[Planned, ...]], None]

GLANCE = 0.02
"""Seconds after which the hub checks whether the clients that it waits for are late."""

HURRY = 0.5
"""The most seconds between two cycles while memory is short."""


class Hub:
    """Serves each domain in a loop of its own, so that no domain waits for a client of another."""

    def __init__(self, settings: Settings, on_plan: OnPlan | None = None) -> None:
        self.settings = settings
        self._on_plan = on_plan
        """For a dry run: called with each plan, which the hub then does not carry out."""
        self.domains: dict[Domain, Members] = {}
        self._mergers: dict[Domain, Merger] = {}
        self.origins = Origins(self.domains)
        self.readers = Readers()
        self.budget = Budget(settings.cpu_percent / 100, settings.idle_percent / 100)
        self._quota = Quota(self.domains, settings)
        self._reserve = Reserve()
        self._records = Records(self.domains, settings)
        self.shortage = Shortage(settings)
        self._most_mappings = most_mappings()
        self._full_scans = 0
        self._started = time.monotonic()
        self._loops: set[asyncio.Task[None]] = set()

    @property
    def clock(self) -> int:
        """Seconds since the start: the clock of the records of pages."""
        return int(time.monotonic() - self._started)

    @property
    def runs_dry(self) -> bool:
        """True if the hub only reports its plans, and does not carry them out."""
        return self._on_plan is not None

    def apply(self, settings: Settings) -> None:
        """Use other settings from now on. No client and no merged page is let go."""
        for part in (self, self._quota, self.shortage, self._records):
            part.settings = settings
        self.budget.set_shares(settings.cpu_percent / 100, settings.idle_percent / 100)
        for merger in self._mergers.values():
            merger.settings = settings
            merger.again.share = settings.again_percent / 100
            merger.gentle.share = settings.latency_percent / 100
            merger.members.find_room()
            merger.members.wake.set()

    def status(self, uid: int) -> Generator[None, None, Status]:
        """Work out, in steps, the counters that a viewer of ``uid`` may see."""
        looks, scans = self.settings.looks, self._full_scans
        return report.status(self.domains, uid, looks, scans, self._started)

    def enter(self, domain: Domain) -> Merger:
        """Return the merger of a domain; the hub serves the domain from now on until it is over."""
        if domain not in self.domains:
            members = Members(domain, scans=self._full_scans)
            merger = Merger(members, self._quota, self.settings, self._most_mappings)
            self.domains[domain], self._mergers[domain] = members, merger
            task = asyncio.create_task(self._serve(merger))
            self._loops.add(task)
            task.add_done_callback(self._loops.discard)
        return self._mergers[domain]

    async def watch_memory(self) -> None:
        """Note when memory is short, for ever: then merging hurries."""
        await self.shortage.watch(self.domains.values, self._hurry)

    def _hurry(self) -> None:
        self.budget.hurries = self.shortage.everywhere
        for members in self.domains.values():
            members.hurry()

    def _hurries(self, members: Members) -> bool:
        return self.shortage.concerns(members)

    def _longest(self, members: Members) -> float:
        """Return the longest pause between two looks at a client of a domain."""
        longest = self.settings.longest_pause
        return min(longest, HURRY) if self._hurries(members) else longest

    def _looks(self, members: Members) -> int:
        return 1 if self._hurries(members) else self.settings.looks

    async def _serve(self, merger: Merger) -> None:
        """Cycle until the domain is over; the pauses of clients grow while they change little."""
        members, woken = merger.members, True
        while woken or not members.is_over:
            members.wake = asyncio.Event()
            before, came, merges = time.process_time(), members.came, members.merges
            failed = False
            try:
                await self.cycle(merger)
            except Exception as error:
                # An error of one client would have ended there: this is a fault of the hub's own.
                log.error("a cycle of %s failed: %s", members.domain, told(error))
                failed = True
            worked, came = time.process_time() - before, max(members.came - came, 0)
            merged = max(members.merges - merges, 0)
            hurries, longest = self._hurries(members), self._longest(members)
            ended = time.monotonic()
            members.end_cycle(ended)
            self._full_scans = max(self._full_scans, members.scans)
            found, waits = self._decide_pauses(members, hurries, longest)
            is_spare = found <= max(pace.FEW, members.least) and not waits
            rest = self.budget.rest(worked if is_spare else 0.0)
            await members.rest(rest, lambda: self.budget.hurries)
            pause = longest if failed else pace.SHORTEST
            if not hurries:
                pause = max(pause, pace.patience(worked, found, came, merged))
            soonest = ended + min(pause, longest)
            until = max(members.due(longest), soonest) if members.clients else soonest
            # Not wait_for: until Python 3.12 it may swallow the cancellation that ends the hub.
            waiter = asyncio.ensure_future(members.wake.wait())
            timeout = min(until - time.monotonic(), longest)
            woken = bool((await asyncio.wait({waiter}, timeout=max(timeout, 0.0)))[0])
            waiter.cancel()
        merger.filler.close()
        self.domains.pop(members.domain, None)
        self._mergers.pop(members.domain, None)

    def _decide_pauses(self, members: Members, hurries: bool, longest: float) -> tuple[float, bool]:
        """Decide the pauses of all clients that were looked at, or of which something was found.

        Returns the pages that were found, and whether these looks were due in any case: they found
        nothing, after the longest pause. All other work must be worth it.
        """
        attended = [it.attention for it in members.clients]
        attended = [it for it in attended if it.is_over or it.found]
        found = sum(it.found for it in attended)
        waits = found == 0 and all(it.pause >= longest for it in attended)
        for it in attended:
            it.decide(inf if it.found and hurries else self._weight(members, it.found), longest)
        return found, waits

    def _weight(self, members: Members, found: float) -> float:
        """Return the pages found, or infinity if they are worth spare time, and there is some."""
        return inf if found > members.least and self.budget.has_spare else found

    async def cycle(self, merger: Merger) -> None:
        """Merge what the looks so far have found, and look at the clients that are due.

        In this order the compare of a merge is the last look that a page needs: an unchanged page
        is read once, not twice. With ``looks = 1``, merging at first sight, the hub looks first.
        """
        members = merger.members
        looks = self._looks(members)
        at_first_sight = looks == 1
        merged = 0 if at_first_sight else await self._decide(merger, looks)
        await self._visit_due(merger)
        if at_first_sight:
            merged = await self._decide(merger, looks)
        await tidy(merger, self.origins)
        await self._records.settle(members)
        if not self.runs_dry:
            await make_whole(merger)
        await merger.savings.tell(members, merged)

    async def _visit_due(self, merger: Merger) -> None:
        """Look at the clients that are due.

        The hub also looks at a client that keeps it waiting, but the others do not wait for that
        client: its turn continues during the next cycles, and its end ends the pause between two of
        them. A client that owes an answer gets no turn: the turn would end at once, and cycle would
        follow cycle as long as the client is silent.
        """
        members, now = merger.members, time.monotonic()
        longest = self._longest(members)
        for client in members.clients:
            is_due = client.attention.due(longest) <= now
            if is_due and client.turn is None and client.is_ready:
                client.turn = asyncio.create_task(self._visit(merger, client))
        while True:
            turns = {
                it.turn
                for it in members.clients
                if it.turn is not None and not it.turn.done() and not it.is_late
            }
            if not turns:
                break
            await asyncio.wait(turns, timeout=GLANCE)
        for client in members.clients:
            if client.turn is None:
                continue
            if client.turn.done():
                client.turn.result()
                client.turn = None
                client.attention.end_look(time.monotonic())
            else:
                client.turn.remove_done_callback(members.rouse)
                client.turn.add_done_callback(members.rouse)

    async def _decide(self, merger: Merger, looks: int) -> int:
        """Merge the pages that are known to be worth it, if enough of them are new; returns the
        number of pages merged."""
        members = merger.members
        hurries = self._hurries(members)
        clients = [it for it in members.clients if it.may_merge]
        for client in clients:
            members.await_plan(client.missed)
            client.missed = 0
        again = merger.again.is_left or hurries
        pending = members.pending + (members.pending_again if again else 0)
        worth = members.is_worth_a_plan(hurries=hurries)
        worth |= again and members.is_worth_another(hurries=hurries)
        if not worth and not (pending > members.least and self.budget.has_spare):
            return 0
        if await self._reserve.lacks(list(self.domains.values()), self.settings.reserve_bytes):
            reserve.leave_alone(clients, await candidates(clients, looks, again=again))
            return 0
        for client in clients:
            client.forget(reserve.REASON)
        members.begin_plan(again=again)
        for client in list(members.clients):
            if client.has_barrier and client not in clients:
                client.missed = len((await candidates([client], looks, again=again)).digest)
        found = await candidates(clients, looks, again=again)
        plan = await planning.make(merger, clients, found)
        if self._on_plan is not None:
            self._on_plan(members.domain, plan.describe())
            return 0
        with plan:
            return await Stages(merger, plan).run()

    async def _visit(self, merger: Merger, client: Client) -> None:
        """Look at one client."""
        members, looks = merger.members, self._looks(merger.members)
        if not client.is_ready:
            return
        try:
            if await client.refresh():
                client.attention.found = inf
            if client.doubt.is_due:
                await adopt_mappings(client, members.store)
            if not client.has_barrier:
                await check_separated(client)
                return
            await recall(client)
            async for asked in due(client, merger.gentle.most_blocks):
                async with merger.gentle.slice(), self.readers.of(members.domain.uid):
                    seen = await look(client, asked, members.store.seed)
                first, again = await note(client, seen, looks, self.clock, merger.most_vain)
                client.attention.found += first
                members.await_plan(first)
                members.await_another(again)
        except Exception as error:
            pass_over(client, error)
