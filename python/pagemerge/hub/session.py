"""Serves one connection, from its first frame to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np

from pagemerge import _core
from pagemerge.errors import HubError, ProtocolError
from pagemerge.hub import birth, wire
from pagemerge.hub.admission import (
    MOST_REGIONS,
    MOST_UNFINISHED,
    OVERCOMMITTED,
    SILENCE,
    Account,
    Admission,
)
from pagemerge.hub.budget import LATER
from pagemerge.hub.client import DEADLINE, Client
from pagemerge.hub.closing import has_seals
from pagemerge.hub.contact import Caller, domain_of, greet
from pagemerge.hub.hub import Hub
from pagemerge.hub.link import LONGEST_TURN, MOST_BODY, MOST_GREETING, Link
from pagemerge.hub.merging import Merger
from pagemerge.hub.turns import work_in
from pagemerge.linux import text
from pagemerge.model import PAGE_SIZE

log = logging.getLogger("pagemerge.hub")

_HOST_PAGES = os.sysconf("SC_PHYS_PAGES")

HANDBACK = 50e-6
"""Seconds that taking in a slab costs the loop, without its digests."""

MOST_NOTE = 1000
"""The most characters of a client's note."""


class Server(Protocol):
    """The parts of the server that a session needs."""

    hub: Hub
    admission: Admission
    namespaces: tuple[int, int, int]
    links: set[Link]

    def has_spoken(self, link: Link) -> None:
        """Note that a connection is not silent any more, or has ended."""

    def spawn(self, link: Link, work: Coroutine[object, object, None]) -> None:
        """Run a request of a connection; any error ends the connection."""


class Session:
    """A connection of a viewer, or of a process that becomes a client with its greeting."""

    def __init__(
        self, service: Server, peer: socket.socket, caller: Caller, account: Account
    ) -> None:
        self.service = service
        self.caller, self.account = caller, account
        self.client: Client | None = None
        self.merger: Merger | None = None
        """The merger of the client's domain."""
        self._greeting = False
        self._peer = peer
        self.link = Link(
            peer,
            self._frame,
            self._end,
            account.closer,
            self._may_receive,
            account.leaves_unread,
            self._turn,
        )
        self.link.greeted(MOST_GREETING)
        account.links.add(self.link)
        service.links.add(self.link)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(SILENCE, self._give_up)

    def _frame(self, kind: int, sequence: int, body: bytes) -> None:
        client, merger = self.client, self.merger
        self.service.has_spoken(self.link)
        if kind == wire.Kind.STATUS:
            if client is None:
                self._deadline.cancel()
            self.link.pause()
            self.service.spawn(self.link, self._answer(sequence))
        elif kind == wire.Kind.HELLO and client is None and not self._greeting:
            self._greeting = True
            self.link.pause()
            self.service.spawn(self.link, self._hello(body))
        elif client is None or merger is None:
            raise ProtocolError("it did not say hello")
        else:
            self._serve(client, merger, kind, sequence, body)

    def _serve(self, client: Client, merger: Merger, kind: int, sequence: int, body: bytes) -> None:
        """Handle a frame of a client."""
        hub = self.service.hub
        if kind == wire.Kind.HANDBACK:
            self._adopt(client, merger)
        elif kind == wire.Kind.NOTE:
            client.note = text.plain(body, MOST_NOTE)
        elif kind == wire.Kind.INTERN and sequence % 2 == 1:
            request = wire.unpack(body, wire.INTERN)
            client.begin_birth(sequence)
            if hub.runs_dry:
                birth.refuse(client, sequence, "the hub runs with --dry-run: it merges nothing")
                return
            work = birth.merge(merger, hub.readers, client, sequence, request)
            self.service.spawn(self.link, work)
        elif kind == wire.Kind.MERGED and (planned := client.report_birth(sequence)):
            birth.note(merger, client, planned, body)
        elif kind not in (wire.Kind.MERGED, wire.Kind.REGIONS):  # these two may come late
            raise ProtocolError(f"a frame of kind {kind} out of turn")

    def _turn(self, seconds: float) -> float:
        """Note the seconds that its frames have taken; returns the seconds that it has to wait."""
        wait = self.account.frames.wait
        self.account.frames.spend(seconds, len(self.service.admission))
        return wait

    async def _answer(self, sequence: int) -> None:
        """Send a viewer the counters."""
        service, viewers = self.service, self.account.viewers
        count = partial(service.hub.status, self.caller.uid)
        counters = await viewers.answer(count, len(service.admission))
        if not self.link.open:
            return
        self.link.send(wire.Kind.COUNTERS, sequence, counters)
        if self.client is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(SILENCE, self._give_up)
        self.link.resume()

    async def _hello(self, body: bytes) -> None:
        """Accept a client. Raises ``HubError`` with the reason if the process cannot be one."""
        version, barrier = wire.unpack(body, wire.HELLO)
        if version != wire.VERSION or barrier not in wire.BARRIERS:
            raise ProtocolError(f"its agent has version {version}, the hub has {wire.VERSION}")
        if self.service.hub.budget.is_overdrawn:
            await asyncio.sleep(LATER)
            if not self.link.open:
                raise HubError("it has hung up")
        name, _, note = body[wire.HELLO.size :].partition(b"\0")
        reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        peer: _core.Peer | None = None
        try:
            peer = await self._greet(reader)
            domain = domain_of(self.caller, peer, self.service.namespaces, name)
            if not self.link.open:
                raise HubError("it has hung up")
        except BaseException:
            reader.shutdown(wait=False)
            if peer is not None:
                peer.close()
            raise
        self._deadline.cancel()
        self.merger = self.service.hub.enter(domain)
        members = self.merger.members
        self.client = Client(
            pid=self.caller.pid,
            uid=self.caller.uid,
            name=_name(self.caller.pid),
            peer=peer,
            link=self.link,
            barrier=wire.BARRIERS[barrier],
            note=text.plain(note, MOST_NOTE),
            reader=reader,
            patience=members.patience,
            claims=self.account,
            most_regions=MOST_REGIONS,
            most_pages=OVERCOMMITTED * _HOST_PAGES,
        )
        members.clients.append(self.client)
        self.link.greeted(MOST_BODY)
        self.link.send(wire.Kind.WELCOME, body=wire.HELLO.pack(wire.VERSION, 0))
        log.info("process %d (%s) joins %s", self.caller.pid, self.client.name, domain)
        members.wake.set()
        self.link.resume()

    async def _greet(self, reader: ThreadPoolExecutor) -> _core.Peer:
        """Look at the process, in a thread, because the process may make the thread wait."""
        # A duplicate: the connection may end meanwhile, and its number may belong to another file.
        peer = self._peer.dup()

        def look() -> _core.Peer:
            with peer:
                return greet(peer, self.caller)

        work = await work_in(reader, look, DEADLINE)
        if not work.done():
            raise HubError(f"looking at process {self.caller.pid} makes the hub wait")
        return work.result()

    def _adopt(self, client: Client, merger: Merger) -> None:
        """Take a slab that another hub made, if no process can change it."""
        descriptor = self.link.take_descriptor()
        if descriptor is None:
            log.warning("no descriptor is left for a slab of process %d: see ulimit -n", client.pid)
            return
        if not has_seals(descriptor):
            # Do not even ask for its size: a file system that is a program may never answer.
            self.account.closer.close(descriptor)
            raise ProtocolError("not a slab: it has no seals")
        self.link.pause()
        self.service.spawn(self.link, self._take_slab(client, merger, descriptor))

    async def _take_slab(self, client: Client, merger: Merger, descriptor: int) -> None:
        """Take in a slab. The hub does not read the bytes of a slab that it refuses."""
        kept = False
        try:
            kept = await self._admit_slab(client, merger, descriptor)
        finally:
            if kept:
                self.account.closer.let_go()
            else:
                self.account.closer.close(descriptor)
        # The link does not see what this task costs.
        wait = min(self._turn(HANDBACK), LONGEST_TURN)
        asyncio.get_running_loop().call_later(wait, self.link.resume)

    async def _admit_slab(self, client: Client, merger: Merger, descriptor: int) -> bool:
        """Add a slab to the store, if allowed; true if the store owns the descriptor now."""
        found = os.fstat(descriptor)
        slab, pages = found.st_ino, found.st_size // PAGE_SIZE
        members, origins = merger.members, self.service.hub.origins
        if origins.is_foreign(members.domain, slab):
            # The domain that had the slab first keeps it: no page is ever mapped in two domains.
            log.info("process %d hands back a slab of another domain", client.pid)
            return False
        store, taken = members.store, False
        known = store.slabs.get(slab)
        if known is None:
            if pages <= _core.SLAB_PAGES and not merger.quota.may_hand_back(members, client, pages):
                return False  # its pages stay merged as they are; no new client shares them
        elif not os.path.samestat(found, os.fstat(known.descriptor)):
            raise ProtocolError("not a slab: a file with the number of one")
        if known is None or store.is_retired(slab):
            slab, sealed = await client.read(_core.open_slab, descriptor, store.seed)
            digests = np.frombuffer(sealed, np.uint64)
            if origins.is_foreign(members.domain, slab):
                return False  # another domain has taken it meanwhile
            known = store.slabs.get(slab)
            if known is None:
                store.add(descriptor, slab, digests, np.full(len(digests), client.pid, np.uint64))
                taken = True
            else:
                store.reinstate(known, digests)
        members.adopt(slab)
        client.given.add(slab)
        client.doubt.note(more=True)
        return taken

    def _may_receive(self, count: int) -> bool:
        self.account.unfinished += count
        return self.account.unfinished <= MOST_UNFINISHED

    def _give_up(self) -> None:
        self.link.close("it sends no request")

    def _end(self, why: str) -> None:
        self._deadline.cancel()
        self.service.links.discard(self.link)
        self.service.has_spoken(self.link)
        self.account.links.discard(self.link)
        if self.client is not None and self.merger is not None:
            log.info("process %d (%s) leaves: %s", self.client.pid, self.client.name, why)
            self.merger.members.clients.remove(self.client)
            self.client.close()
            self.merger.members.wake.set()
        elif self._greeting:
            log.info("process %d does not join: %s", self.caller.pid, why)
        else:
            log.debug("a viewer leaves: %s", why)


def _name(pid: int) -> str:
    try:
        return text.plain(text.read(f"/proc/{pid}/comm", 100).rstrip(b"\n"))
    except OSError:
        return "?"
