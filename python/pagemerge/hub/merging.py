"""Has the clients of one domain map slots, and notes what they have done."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.hub import wire
from pagemerge.hub.boundary import pass_over
from pagemerge.hub.budget import Allowance
from pagemerge.hub.client import Client
from pagemerge.hub.decide import gentle, pace, plan, restless, stability
from pagemerge.hub.domain import Members
from pagemerge.hub.filler import Filler
from pagemerge.hub.gentle import Gentle
from pagemerge.hub.model import OWN_SLOT, Runs
from pagemerge.hub.quota import Quota
from pagemerge.hub.savings import Savings
from pagemerge.hub.settings import Settings
from pagemerge.model import ABSENT

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

MOST_PLANNED = 8192
"""The most pages of a plan that the hub sends to a client at once. If they are scattered, the
client needs about 50 ms, and an answer that takes too long counts as no answer."""


WHOLE_SHARE = 0.25
"""Share of the time in which the clients of a domain may make blocks huge pages: threads wait that
touch a block meanwhile."""


class Merger:
    """Carries out merges in one domain, whether a plan, a request or tidying asks for them."""

    def __init__(
        self, members: Members, quota: Quota, settings: Settings, most_mappings: int
    ) -> None:
        self.members, self.quota, self.settings = members, quota, settings
        self.gentle = Gentle(settings.latency_percent / 100)
        self.filler = Filler(members, quota, self.gentle)
        self.savings = Savings()
        self.again = Allowance(settings.again_percent / 100)
        """For merging pages that were merged before and written since."""
        self.whole = Allowance(WHOLE_SHARE)
        """For making blocks huge pages."""
        self._most_mappings = most_mappings

    @property
    def most_vain(self) -> int:
        """The most merges in vain that the records of pages count (``restless.most_vain``)."""
        return restless.most_vain(self.settings.longest_hold)

    async def carry_out(self, client: Client, address: U64, slot: U32) -> int:
        """Have a client map slots; returns the number of pages merged. Pages are in order of
        address."""
        merged = 0
        try:
            least = self.settings.least_run
            address, slot, runs = await self.prepare(client, address, slot, least)
            most = MOST_PLANNED
            if self.gentle.share:
                most = self.gentle.pages
                runs = gentle.split(runs, most)
            for some, pages in plan.parts(runs["pages"], most):
                async with self.gentle.slice(elsewhere=True):
                    body = await self._ask(client, runs[some], address[pages], slot[pages])
                merged += self.note(client, body, address[pages], slot[pages])
        except Exception as error:
            self.members.await_plan(len(address))
            pass_over(client, error)
        return merged

    async def _ask(
        self, client: Client, runs: npt.NDArray[np.void], address: U64, slot: U32
    ) -> bytes:
        """Have a client carry out some runs, and return its report. Raises the errors of
        ``Client.ask``."""
        late = partial(self._note_late, client, address, slot)
        again, began = _again(client, address, slot), time.monotonic()
        client.plans += 1
        try:
            body = await client.ask(
                wire.Kind.MERGE, runs.tobytes(), self.members.patience.seconds, late
            )
        finally:
            took = time.monotonic() - began
            if again:
                self.again.spend(took * again)
        self.gentle.note_answer(len(address), took)
        return body

    async def prepare(
        self, client: Client, address: U64, slot: U32, least: int, *, awaited: bool = False
    ) -> tuple[U64, U32, npt.NDArray[np.void]]:
        """Give a client the slabs that it needs; returns its pages, their slots, and its runs.

        Pages for which the client has no mappings left, or whose slab is gone, are left out.
        ``awaited`` and the errors raised are those of ``afford``.
        """
        store = self.members.store
        slab, place = store.locate(slot)
        slab[slot == OWN_SLOT] = _core.WIRE_OWN
        runs = plan.runs(address, slot, slab)
        kept = await self.afford(client, runs, slab, least, awaited=awaited)
        # Counting takes a while: meanwhile a slab that no client maps any more may be gone, and may
        # have been handed back with other numbers.
        head = runs.first[kept]
        now, _ = store.locate(slot[head])
        now[slot[head] == OWN_SLOT] = _core.WIRE_OWN
        kept = kept[now == slab[head]]
        first, pages = runs.first[kept], runs.pages[kept]
        client.room -= int(np.count_nonzero(slab[first]))
        client.leave_alone("over_budget", int(runs.pages.sum() - pages.sum()))
        self.give(client, np.unique(slab[first]))
        rows = wire.runs(address[first], slab[first], place[first], pages)
        chosen = plan.pages_of(runs, kept)
        return address[chosen], slot[chosen], rows

    def give(self, client: Client, slabs: U64) -> None:
        """Send a client the slabs with these numbers that it does not have yet."""
        known = self.members.store.slabs
        client.give(known[it] for it in slabs.tolist() if it in known)

    async def afford(
        self, client: Client, runs: Runs, slab: U64, least: int, *, awaited: bool = False
    ) -> I64:
        """Return the runs that a client has mappings for: the longest, none shorter than ``least``.

        ``slab`` u64[pages]: the slab of each page, 0 for zero pages, which cost no mapping.
        ``awaited`` as for ``Client.budget``. Raises the errors of ``Client.read``.
        """
        costs = slab[runs.first] != 0
        wanted = int(np.count_nonzero(costs))
        budget = await client.budget(wanted, self._most_mappings, awaited=awaited)
        return plan.within_budget(runs, costs, budget, least)

    def note(self, client: Client, body: bytes, address: U64, slot: U32) -> int:
        """Note a client's report of its merge; returns the number of pages merged."""
        refused = client.skipped["refused"]
        merged = client.note_merged(body, address, slot)
        # If the reason does not last (threads did not stop in time), the hub tries again soon.
        is_refused = client.skipped["refused"] > refused
        again = is_refused and not client.note
        for region, part, index in client.locate(address):
            good = merged[part]
            region.split(index[good])
            region.pages.digest[index[good]] = ABSENT
            restless.begin(region.pages, index[good])
            pace.reward(region.pages, index if again else index[good])
            if is_refused:  # the pages are not the reason
                restless.begin(region.pages, index[~good])
            else:
                restless.begin_anew(region.pages, index[~good], self.most_vain)
        return int(np.count_nonzero(merged))

    def _note_late(self, client: Client, address: U64, slot: U32, body: bytes) -> None:
        """Note a report that comes after its deadline: the client has mapped these pages."""
        try:
            self.note(client, body, address, slot)
        except Exception as error:
            pass_over(client, error)
        client.tardy = False
        self.members.wake.set()


def _again(client: Client, address: U64, slot: U32) -> float:
    """Return the share of pages for which this is another attempt to merge them."""
    again = 0
    for region, part, index in client.locate(address):
        another = stability.is_another(region.pages.under[index], region.pages.standing[index])
        again += int(np.count_nonzero(another & (slot[part] != OWN_SLOT)))
    return again / max(len(address), 1)
