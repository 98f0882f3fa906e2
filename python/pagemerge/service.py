"""The hub as a service: one socket, one lock, clients and viewers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import msgspec
import numpy as np

from pagemerge import _core
from pagemerge.decide.stability import before_merge
from pagemerge.decide.trust import Domain, checked_name, may_join
from pagemerge.errors import HubError, ProtocolError, UsageError
from pagemerge.hub import Hub, Members
from pagemerge.merge import wire
from pagemerge.merge.link import Link, listen
from pagemerge.merge.user import Client
from pagemerge.model import PAGE_SIZE, ClientStatus, Pages, Status
from pagemerge.watch import counters

log = logging.getLogger("pagemerge.hub")

MOST_SILENT = 1024
"""Connections that have not said anything whole yet; beyond that the oldest is closed."""

GRACE = 3.0
"""Seconds that a hub without clients waits for one, if it is to end with the last."""


class Service:
    """Listens, greets, and hands the hub what clients ask for."""

    def __init__(self, hub: Hub, path: Path, until_idle: bool) -> None:
        self.hub = hub
        self.path = path
        self.until_idle = until_idle
        self._links: set[Link] = set()
        self.silent: dict[Link, None] = {}
        """Connections without a whole frame so far, oldest first."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or (``until_idle``) until the last client has gone."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        server = listen(str(self.path))
        loop.add_reader(server, self._accept, server)
        work = asyncio.create_task(self.hub.run())
        idle = asyncio.create_task(self._idle()) if self.until_idle else None
        ends = {asyncio.create_task(stop.wait()), work} | ({idle} if idle else set())
        log.info("listening at %s", self.path)
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        loop.remove_reader(server)
        self.path.unlink(missing_ok=True)
        server.close()
        for link in list(self._links):
            link.close("the hub ends")
        if work in done:
            work.result()  # it never ends but by a fault of ours: let it be seen

    async def _idle(self) -> None:
        empty_since = time.monotonic()
        while time.monotonic() - empty_since < GRACE:
            await asyncio.sleep(0.25)
            if any(members.clients for members in self.hub.domains.values()):
                empty_since = time.monotonic()

    def _accept(self, server: socket.socket) -> None:
        try:
            peer, _ = server.accept()
        except OSError as error:
            log.warning("cannot accept a connection: %s", error)
            # The connection still waits there: do not ask again and again for what we lack.
            loop = asyncio.get_running_loop()
            loop.remove_reader(server)
            loop.call_later(1.0, self._accept_again, server)
            return
        peer.setblocking(False)
        try:
            size = struct.calcsize("iII")
            raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            pid, uid, _ = struct.unpack("iII", raw)
            if not may_join(uid, os.geteuid()):
                raise HubError(f"process {pid} belongs to user {uid}, not to the hub's")
            self.silent[Session(self, peer, pid, uid).link] = None
        except (OSError, HubError) as error:
            log.info("refused a connection: %s", error)
            peer.close()
        if len(self.silent) > MOST_SILENT:
            next(iter(self.silent)).close("it has nothing to say")

    def _accept_again(self, server: socket.socket) -> None:
        if server.fileno() >= 0:
            asyncio.get_running_loop().add_reader(server, self._accept, server)

    def spawn(self, link: Link, work: object) -> None:
        """Run a client's request; a request that breaks the protocol ends its connection."""

        async def guarded() -> None:
            try:
                await work  # type: ignore[misc]
            except ProtocolError as error:
                link.close(f"it does not speak the protocol: {error}")
            except Exception:
                # A fault of ours: let it be seen, and let nobody wait for an answer.
                log.exception("a request failed")
                link.close("the hub failed")

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def status(self, uid: int) -> Status:
        """The counters that a viewer of ``uid`` may see: its own domains; root sees all."""
        hub, settings = self.hub, self.hub.settings
        clients: list[ClientStatus] = []
        total = dict.fromkeys(("shared", "sharing", "unshared", "volatile", "zero", "runs"), 0)
        store = metadata = 0
        for domain, members in hub.domains.items():
            if uid not in (0, domain.uid):
                continue
            maps = [region.pages.slot for it in members.clients for region in it.regions.values()]
            mapped = counters.sharers(maps, members.store.next_slot)
            total["shared"] += int(np.count_nonzero(mapped))
            total["sharing"] += int(mapped.sum()) - int(np.count_nonzero(mapped))
            store += members.store.bytes
            metadata += members.store.metadata_bytes
            for client in members.clients:
                row, tally = _row(client, domain, before_merge(settings.looks))
                clients.append(row)
                for key in ("unshared", "volatile", "zero", "runs"):
                    total[key] += getattr(tally, key)
                metadata += sum(_bytes(region.pages) for region in client.regions.values())
        idle_slots = store - total["shared"] * PAGE_SIZE
        saved = (total["sharing"] + total["zero"]) * PAGE_SIZE
        return Status(
            engine="user",
            hub_pid=os.getpid(),
            pages_shared=total["shared"],
            pages_sharing=total["sharing"],
            zero_pages=total["zero"],
            pages_unshared=total["unshared"],
            pages_volatile=total["volatile"],
            full_scans=hub.full_scans,
            store_bytes=store,
            metadata_bytes=metadata,
            general_profit_bytes=saved - idle_slots - metadata - total["runs"] * counters.VMA_BYTES,
            cpu_seconds=time.process_time(),
            seconds=time.monotonic() - hub.started,
            clients=tuple(clients),
        )


class Session:
    """One connection, from its first frame to its end."""

    def __init__(self, service: Service, peer: socket.socket, pid: int, uid: int) -> None:
        self.service = service
        self.pid, self.uid = pid, uid
        self.client: Client | None = None
        self.members: Members | None = None
        self.link = Link(peer, self._frame, self._end)
        service._links.add(self.link)

    def _frame(self, kind: int, sequence: int, body: bytes) -> None:
        hub, client, members = self.service.hub, self.client, self.members
        self.service.silent.pop(self.link, None)
        if kind == wire.Kind.STATUS:
            answer = msgspec.json.encode(self.service.status(self.uid))
            self.link.send(wire.Kind.COUNTERS, sequence, answer)
        elif kind == wire.Kind.HELLO and client is None:
            self._hello(body)
        elif client is None or members is None:
            raise ProtocolError("it did not say hello")
        elif kind == wire.Kind.HANDBACK:
            self._adopt(client, members)
        elif kind == wire.Kind.NOTE:
            client.note = body[:1000].decode(errors="replace")
        elif kind == wire.Kind.INTERN and sequence % 2 == 1:
            request = wire.unpack(body, wire.INTERN)
            client.begin(sequence)
            self.service.spawn(self.link, hub.intern(members, client, sequence, request))
        elif kind == wire.Kind.MERGED and (planned := client.births.get(sequence)):
            del client.births[sequence]
            hub.note_birth(members, client, planned, body)
        elif kind not in (wire.Kind.MERGED, wire.Kind.REGIONS):  # those may come late
            raise ProtocolError(f"a frame of kind {kind} out of turn")

    def _hello(self, body: bytes) -> None:
        version, barrier = wire.unpack(body, wire.HELLO)
        if version != wire.VERSION or barrier not in wire.BARRIERS:
            raise ProtocolError(f"its agent is of version {version}, we of {wire.VERSION}")
        hub = self.service.hub
        name, _, note = body[wire.HELLO.size :].partition(b"\0")
        domain = _domain(self.pid, self.uid, name)
        self.members = hub.domains.setdefault(domain, Members(domain))
        self.client = Client(
            pid=self.pid,
            uid=self.uid,
            name=_name(self.pid),
            handle=self.link.process(self.pid),
            link=self.link,
            barrier=wire.BARRIERS[barrier],
            note=note[:1000].decode(errors="replace"),
        )
        self.members.clients.append(self.client)
        self.link.send(wire.Kind.WELCOME, body=wire.HELLO.pack(wire.VERSION, 0))
        log.info("process %d (%s) joins %s", self.pid, self.client.name, domain)
        hub.wake.set()

    def _adopt(self, client: Client, members: Members) -> None:
        """A slab that another hub made: ours from now on, if nobody can change it."""
        descriptor = self.link.take_descriptor()
        if descriptor is None:
            log.warning("no descriptor is left for a slab of process %d: see ulimit -n", self.pid)
            return
        try:
            if self._take_slab(client, members, descriptor):
                descriptor = None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _take_slab(self, client: Client, members: Members, descriptor: int) -> bool:
        """True if the descriptor is the store's now. What is refused costs no look at its bytes."""
        found = os.fstat(descriptor)
        slab, pages = found.st_ino, found.st_size // PAGE_SIZE
        hub = self.service.hub
        if any(slab in it.store.slabs for it in hub.domains.values() if it is not members):
            # Whoever came first keeps it: no page may ever be mapped in two domains by our doing.
            log.info("process %d hands back a slab of another domain", self.pid)
            return False
        new = slab not in members.store.slabs
        if new:
            if pages <= _core.SLAB_PAGES and not hub.quota.may_hand_back(client, pages):
                return False  # its pages stay merged as they are; nobody new shares them
            slab, sealed = _core.open_slab(descriptor, members.store.seed)
            digests = np.frombuffer(sealed, np.uint64)
            donors = np.full(len(digests), client.pid, np.uint64)
            members.store.add(descriptor, slab, digests, donors)
        members.born.add(slab)
        client.given.add(slab)
        client.adopting = True
        return new

    def _end(self, why: str) -> None:
        self.service._links.discard(self.link)
        self.service.silent.pop(self.link, None)
        if self.client is not None and self.members is not None:
            log.info("process %d (%s) leaves: %s", self.pid, self.client.name, why)
            self.members.clients.remove(self.client)
            self.client.close()
            self.service.hub.wake.set()
        else:
            log.debug("a viewer leaves: %s", why)


def _bytes(pages: Pages) -> int:
    return sum(getattr(pages, field.name).nbytes for field in fields(pages))


def _row(client: Client, domain: Domain, looks: int) -> tuple[ClientStatus, counters.Tally]:
    tally = counters.tally([region.pages for region in client.regions.values()], looks)
    row = ClientStatus(
        pid=client.pid,
        name=client.name,
        uid=client.uid,
        domain=str(domain),
        barrier=client.barrier,
        regions=len(client.regions),
        bytes=sum(map(len, client.regions.values())) * PAGE_SIZE,
        merged_pages=tally.merged,
        zero_pages=tally.zero,
        mappings=tally.runs,
        skipped={reason: count for reason, count in client.skipped.items() if count},
        note=client.note,
        merges=client.merges,
        separations=client.separations,
    )
    return row, tally


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return "?"


def _domain(pid: int, uid: int, name: bytes) -> Domain:
    """The trust domain of a process that has just connected, and says that it is called ``name``.

    A name can only narrow it: the rest is what the kernel says.
    """
    try:
        part = checked_name(name.decode("ascii", errors="replace")) if name else ""
    except UsageError as error:
        raise ProtocolError(str(error)) from None
    namespace, label = 0, ""
    with _unless_short():
        namespace = os.stat(f"/proc/{pid}/ns/user").st_ino  # noqa: PTH116
    with _unless_short():
        label = Path(f"/proc/{pid}/attr/current").read_text().strip("\0\n ")
    return Domain(uid, namespace, label, part)


@contextlib.contextmanager
def _unless_short() -> Iterator[None]:
    """Let what is not there be absent. What we could not look at, for want of a descriptor or
    memory of our own, is not absent: a domain without its label would be too wide."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock of the socket at ``path``: its directory is made, and checked.

    Raises ``HubError`` if another hub has it, or if somebody else could replace the socket.
    """
    parent = path.parent
    parent.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    owner = parent.stat()
    if owner.st_uid not in (0, os.geteuid()) or (
        owner.st_mode & 0o022 and not owner.st_mode & 0o1000
    ):
        raise HubError(f"others can write to {parent}: choose a directory of your own")
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise HubError(f"a hub is running at {path} already", path=str(path)) from None
    try:
        yield
    finally:
        os.close(lock)
