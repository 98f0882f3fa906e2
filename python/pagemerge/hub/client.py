"""The user engine, hub side: what the hub knows of a client, and how it makes requests to it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.errors import AccessDenied, HubError, ProtocolError
from pagemerge.hub import wire
from pagemerge.hub.attention import Attention
from pagemerge.hub.doubt import Doubt
from pagemerge.hub.link import Link
from pagemerge.hub.model import NO_SLOT, OWN_SLOT
from pagemerge.hub.patience import Claims, Patience, Unlimited
from pagemerge.hub.regions import Region, admitted, checked
from pagemerge.hub.store import Slab
from pagemerge.hub.turns import FEW, breathe, work_in
from pagemerge.model import PAGE_SIZE

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
P = ParamSpec("P")
T = TypeVar("T")

DEADLINE = 5.0
"""Seconds that a client may keep the hub waiting before the hub goes on without it."""

RECOUNT = 10.0
"""The fewest seconds after which the hub counts the mappings of a client again."""

RECOUNT_PAUSE = 1000
"""The hub waits this many times the time that counting took (30 ms for a guest with 26,000), if
that is longer than ``RECOUNT``, but no more than a minute."""

MOST_REQUESTS = 4
"""The most merges at birth that a client may ask for before it has reported the first. Agents ask
for one, and for another when a caller has given up. Until the report, the client may map what it
was given for them."""

MOST_REGIONS = 1 << 16
"""Regions of one client: each costs the hub about a kilobyte."""

_MOST_PAGES = os.sysconf("SC_PHYS_PAGES")
"""The most pages of one client: address space costs nothing, the hub's records of it do."""


@dataclass(slots=True, eq=False)
class Client:
    """A process that wants its memory merged, as far as the hub knows it."""

    pid: int
    uid: int
    name: str
    peer: _core.Peer
    """The process itself, as it was when it became a client."""
    link: Link
    barrier: str = "intern"
    note: str = ""
    regions: dict[int, Region] = field(default_factory=dict)
    """Regions by the agent's id, in order of address."""
    given: set[int] = field(default_factory=set)
    """Slabs whose descriptor the agent has."""
    plans: int = 0
    """How many times the client was told what to merge since it joined."""
    merges: int = 0
    separations: int = 0
    """Pages merged, and found separated, since the client joined."""
    scanned: int = 0
    """Pages that looks have read since the client joined."""
    came: int = 0
    """Pages that the hub has found present where none was before, since the client joined."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason -> pages that were left alone; ``leave_alone`` and ``forget`` change it."""
    room: int = 0
    """Mappings that it may still get: by the last count, less those that it was told to make."""
    promised: int = 0
    """Mappings of ``room`` that are set aside for a current plan."""
    leaving: int = 0
    """Cycles for which it merges nothing new: first its agent has to leave slabs that are mostly
    dead, and has asked the hub to wait. Otherwise a busy program could hold ever more dead slabs.
    """
    recount: float = 0.0
    """When the hub counts its mappings again (time.monotonic)."""
    births: dict[int, tuple[U64, U32] | None] = field(default_factory=dict)
    """Merges at birth that have not been reported yet: addresses and slots, one a page; None while
    they are not planned."""
    doubt: Doubt = field(default_factory=Doubt)
    reader: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="reader")
    )
    _size: int = 0
    """Pages of its address space when the hub last asked."""
    _refreshing: asyncio.Lock = field(default_factory=asyncio.Lock)
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held for the one merge at birth that is being prepared."""
    stuck: Future[Any] | None = None
    patience: Patience = field(default_factory=Patience)
    """The patience of its domain."""
    claims: Claims = field(default_factory=Unlimited)
    """The claims of its user."""
    most_regions: int = MOST_REGIONS
    most_pages: int = _MOST_PAGES
    """The most regions and pages that its user may claim."""
    claimed: tuple[int, int] = (0, 0)
    """Its part of its user's claims: regions and pages."""
    _located: tuple[dict[int, Region], list[Region], U64] | None = None
    """For ``locate``: the regions, in a list, and their starts."""
    attention: Attention = field(default_factory=Attention)
    turn: asyncio.Task[None] | None = None
    """The current look at it, or a finished look whose end the hub has not noted yet."""
    waits_since: float = inf
    """When the hub began to wait for it (time.monotonic)."""
    missed: int = 0
    """Pages of the client that plans have left out because it kept the hub waiting."""
    tardy: bool = True
    """True if it has not answered yet, or was late: no client waits for it until it answers."""

    @property
    def is_late(self) -> bool:
        """True if the other clients go on without it."""
        if self.tardy:
            return True
        if time.monotonic() - self.waits_since > self.patience.seconds:
            self.tardy = True
            self.patience.spent()
        return self.tardy

    @property
    def is_ready(self) -> bool:
        """True if it has answered all questions, and the hub can read its memory."""
        stuck = self.stuck is not None and not self.stuck.done()
        return self.link.open and not stuck and not self.link.owes

    @property
    def may_merge(self) -> bool:
        """True if it can take part in a plan now."""
        return self.is_ready and self.has_barrier and self.leaving == 0

    @property
    def is_known(self) -> bool:
        """True if the hub knows what it maps; else it may map any slot of slabs it was given."""
        return self.is_ready and not self.births and not self.doubt.more and not self.doubt.reading

    def begin_birth(self, sequence: int) -> None:
        """Note a request for a merge at birth. Raises ``ProtocolError`` if there are too many."""
        if sequence in self.births or len(self.births) >= MOST_REQUESTS:
            raise ProtocolError("it asks for more before it has reported the first")
        self.births[sequence] = None

    def plan_birth(self, sequence: int, address: U64, slot: U32) -> None:
        """A merge at birth is planned: the client is told of these pages and slots."""
        self.births[sequence] = address, slot
        self.plans += 1

    def report_birth(self, sequence: int) -> tuple[U64, U32] | None:
        """A merge at birth is reported; returns its pages and slots.

        None if it is not planned, or the hub does not know the number: nothing has changed then.
        """
        planned = self.births.get(sequence)
        if planned is not None:
            del self.births[sequence]
        return planned

    def refuse_birth(self, sequence: int) -> None:
        """A merge at birth is refused."""
        self.births.pop(sequence, None)

    @property
    def has_barrier(self) -> bool:
        """True if the hub can merge its pages in the background."""
        return self.barrier != "intern"

    async def read(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call a function that reads this process, in a thread that a deadline can abandon.

        A process can make its reader wait for ever (userfaultfd, FUSE). Raises ``HubError`` then.
        Raises ``AccessDenied``, and ends the connection, if the process is not what it was when it
        became a client. Also raises the errors of the function.
        """
        return await self.read_within(DEADLINE, partial(function, *arguments, **options))

    async def read_within(self, seconds: float, work: Callable[[], T]) -> T:
        """Do some work like ``read``, with a deadline of ``seconds``."""
        self.check_open()
        if self.stuck is not None and not self.stuck.done():
            raise HubError(f"process {self.pid}: {self.note}", pid=self.pid)
        self.waits_since = time.monotonic()
        try:
            future = await work_in(self.reader, work, seconds)
        except RuntimeError as error:  # no thread can be started: RLIMIT_NPROC, or pids.max
            raise HubError(f"process {self.pid}: no reader: {error}", pid=self.pid) from None
        finally:
            self.waits_since = inf
        if not future.done():
            self.stuck = future
            self.note = "reading its memory makes the hub wait"
            self.tardy = True
            self.patience.spent()
            raise HubError(f"process {self.pid}: {self.note}", pid=self.pid)
        self.check_open()
        try:
            return future.result()
        except AccessDenied as error:
            # It has left its trust domain, and a process that holds its socket must not read it.
            self.link.close(str(error))
            raise

    def check_open(self) -> None:
        """Raise ``HubError`` if the connection has ended."""
        if not self.link.open:
            raise HubError(f"process {self.pid} has hung up", pid=self.pid)

    async def refresh(self, *, awaited: bool = False) -> bool:
        """Ask for the regions; true if there are new ones. ``awaited``: see ``breathe``.

        Raises ``HubError`` if the client does not answer.
        """
        # One call at a time: if two calls made the same region anew, one would lose its records.
        async with self._refreshing:
            return await self._refresh(awaited)

    async def _refresh(self, awaited: bool) -> bool:
        body = await self.ask(wire.Kind.LIST)
        rows = wire.rows(body, wire.REGION)
        rows = rows[np.argsort(rows["start"], kind="stable")]
        claimed = checked(rows)
        # The read also checks that the process still exists. A request reads memory in any case.
        if claimed > self._size or not awaited:
            self._size, anonymous = await self.read(self.peer.pages)
            self.attention.note_present(anonymous + self.merges)
        if claimed > self._size:
            raise ProtocolError("it claims more memory than it has")
        self.check_open()  # if it hung up meanwhile, its claims would never be released
        rows = self._admitted(rows)
        regions: dict[int, Region] = {}
        fresh = more = fewer = False
        for number, row in enumerate(rows, 1):
            if number % FEW == 0:
                await breathe(awaited=awaited)
            known = self.regions.get(int(row["id"]))
            same = known is not None and known.start == row["start"] and len(known) == row["pages"]
            if known is None or not same:
                known, fresh = Region.of(int(row["start"]), int(row["pages"])), True
            has_left = known.note(int(row["marks"]), int(row["left"]))
            if same:
                fewer |= has_left
            else:  # it may be a part of one that was there before
                more |= bool(row["marks"] & _core.WIRE_SLABBED)
            regions[int(row["id"])] = known
        self.regions = regions
        self.doubt.note(more=more, fewer=fewer)
        return fresh

    def _admitted(self, rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
        """Return the regions that the hub keeps records of, within the limits of the user.

        The records take the hub's memory: for one process, no more than for as many pages as the
        host has.
        """
        regions = self.most_regions - self.claims.regions + self.claimed[0]
        pages = self.most_pages - self.claims.pages + self.claimed[1]
        kept = admitted(rows, min(regions, MOST_REGIONS), min(pages, _MOST_PAGES))
        if len(kept) < len(rows):
            self.note = "it, or its user, has too many or too large regions: the hub ignores some"
        self._claim(len(kept), int(kept["pages"].sum()))
        return kept

    def _claim(self, regions: int, pages: int) -> None:
        self.claims.regions += regions - self.claimed[0]
        self.claims.pages += pages - self.claimed[1]
        self.claimed = regions, pages

    async def ask(
        self,
        kind: int,
        body: bytes = b"",
        within: float = DEADLINE,
        late: Callable[[bytes], object] | None = None,
    ) -> bytes:
        """Ask and wait for the answer; the hub leaves a client out until it has answered.

        ``late`` is called with an answer that comes after ``within`` seconds. Raises ``HubError``
        if the client does not answer in time, or the connection ends.
        """
        answer = self.link.ask(kind, body, late)
        timer = asyncio.get_running_loop().call_later(within, self._give_up, answer)
        self.waits_since = time.monotonic()
        try:
            said = await answer
        except TimeoutError:
            raise HubError(f"process {self.pid} does not answer", pid=self.pid) from None
        finally:
            timer.cancel()
            self.waits_since = inf
        self.tardy = False
        return said

    def _give_up(self, answer: asyncio.Future[bytes]) -> None:
        """Note that the client is late: at once, before ``late`` can be called, and not only when
        the waiting task runs again."""
        if not answer.done():
            self.tardy = True
            self.patience.spent()
            answer.set_exception(TimeoutError())

    def give(self, slabs: Iterable[Slab]) -> None:
        """Send the descriptors of the slabs that the client does not have yet."""
        for slab in slabs:
            if slab.id not in self.given:
                self.link.send(wire.Kind.SLAB, descriptor=slab.descriptor)
                self.given.add(slab.id)

    async def budget(self, wanted: int, most: int, *, awaited: bool = False) -> int:
        """Return how many mappings a plan or a request that wants ``wanted`` may add.

        ``most``: vm.max_map_count. ``awaited``: a program waits for this, and no other client does:
        it may use what is set aside for a plan, and counting may take ``Patience.LONGEST``. Else it
        may take as long as the domain has patience.

        Counting reads all of /proc/PID/maps. The eighth that is kept for the program covers the
        mappings that the program makes itself between counts. Raises the errors of ``read``.
        """
        now = time.monotonic()
        if wanted > self.room // 4 or now > self.recount:
            work = partial(mappings_left, self.peer, most)
            self.room = await self.read_within(self.patience.limit(awaited=awaited), work)
            took = time.monotonic() - now
            self.recount = now + min(max(RECOUNT, took * RECOUNT_PAUSE), 6 * RECOUNT)
        return self.room if awaited else self.room - self.promised

    def leave_alone(self, reason: str, pages: int) -> None:
        """Count candidates that are left alone; see ``ClientStatus.skipped``."""
        self.skipped[reason] += pages

    def forget(self, *reasons: str) -> None:
        """Reset the counts of pages that were left alone for these reasons."""
        for reason in reasons:
            self.skipped[reason] = 0

    def note_merged(self, body: bytes, address: U64, slot: U32) -> npt.NDArray[np.bool_]:
        """Note a ``MERGED`` frame: count the pages left alone; returns which pages are merged."""
        left, merged = wire.report(body, len(address))
        for reason, count in zip(wire.LEFT_ALONE, left, strict=True):
            self.leave_alone(reason, count)
        self.merges += int(np.count_nonzero(merged))
        for region, part, index in self.locate(address):
            done, now = index[merged[part]], slot[part][merged[part]]
            region.pages.slot[done] = np.where(now == OWN_SLOT, np.uint32(NO_SLOT), now)
            region.pages.under[done] = np.where(now < OWN_SLOT, now, np.uint32(NO_SLOT))
            region.changed += len(done)
        return merged

    def locate(self, address: U64) -> Iterable[tuple[Region, slice, npt.NDArray[np.int64]]]:
        """Split ascending addresses by region: the region, the part, and the indices in it."""
        if self._located is None or self._located[0] is not self.regions:
            found = list(self.regions.values())
            places = np.array([region.start for region in found], np.uint64)
            self._located = self.regions, found, places
        _, regions, starts = self._located
        which = np.searchsorted(starts, address, side="right") - 1
        cuts = np.flatnonzero(np.diff(which)) + 1
        for first, end in zip([0, *cuts], [*cuts, len(address)], strict=True):
            if first == end or which[first] < 0:
                continue
            region = regions[which[first]]
            index = ((address[first:end] - np.uint64(region.start)) // PAGE_SIZE).astype(np.int64)
            inside = int(np.searchsorted(index, len(region)))
            yield region, slice(int(first), int(first) + inside), index[:inside]

    def close(self) -> None:
        """Release everything; a reader that is stuck ends with the process that it reads."""
        self._claim(0, 0)
        self.reader.shutdown(wait=False)
        self.peer.close()


def mappings_left(peer: _core.Peer, most: int) -> int:
    """Return how many more mappings a process may get: the limit, less its own, less an eighth.

    ``most`` is vm.max_map_count. Raises the errors of ``Peer.check``.
    """
    return max(most - most // 8 - peer.maps().count(b"\n"), 0)
