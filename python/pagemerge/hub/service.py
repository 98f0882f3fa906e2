"""Runs the hub as a service: one socket, one lock, clients and viewers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from pagemerge.errors import AccessDenied, HubError, ProtocolError
from pagemerge.hub import wire
from pagemerge.hub.admission import MOST_SILENT, Account, Admission
from pagemerge.hub.contact import Caller, caller_of, own_namespaces
from pagemerge.hub.decide.trust import may_join
from pagemerge.hub.hub import Hub
from pagemerge.hub.link import Link
from pagemerge.hub.listening import listen
from pagemerge.hub.session import Session
from pagemerge.linux.fault import told
from pagemerge.linux.notify import Notifier

log = logging.getLogger("pagemerge.hub")

SWITCH = 0.0005
"""Seconds that a thread of a hub waits for another thread that computes."""

BEAT = 10.0
"""The most seconds between two signs of life to the program that supervises the hub."""

GRACE = 3.0
"""Seconds that a hub waits for a new client before it ends, if it is started to end when idle."""


class Service:
    """Listens at the socket, and hands connections and their requests to the hub."""

    def __init__(
        self,
        hub: Hub,
        path: Path,
        until_idle: bool,
        *,
        server: socket.socket | None = None,
        notifier: Notifier | None = None,
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        """Serve ``hub`` at ``path``.

        ``server``: the listening socket, if another process has opened it; then it also removes
        the path. ``on_hangup`` is called upon SIGHUP; without it, SIGHUP means that the terminal
        was closed, and the service goes on: clients in other terminals need it."""
        self.hub = hub
        self.path = path
        self.until_idle = until_idle
        self._server = server
        self._notifier = notifier or Notifier()
        self._on_hangup = on_hangup or _go_on
        self.admission = Admission()
        self.namespaces = own_namespaces()
        self.links: set[Link] = set()
        self.silent: dict[Link, Account] = {}
        """Connections that have not sent a complete frame so far, oldest first."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or (``until_idle``) until the last client has gone."""
        # Each request goes to a thread and back. If peers keep the loop busy, each of these steps
        # waits for the interpreter; Python's default, 5 ms, would be most of a request's time.
        sys.setswitchinterval(SWITCH)
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        server = self._server or listen(str(self.path))
        loop.add_reader(server, self._accept, server)
        idle = asyncio.create_task(self._idle()) if self.until_idle else None
        ends = {asyncio.create_task(stop.wait())} | ({idle} if idle else set())
        log.info("listening at %s", self.path)
        self._notifier.ready(self._summary())
        always = [asyncio.create_task(it) for it in (self._beat(), self.hub.watch_memory())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in always:
            task.cancel()
        self._notifier.stopping()
        loop.remove_reader(server)
        if self._server is None:
            self.path.unlink(missing_ok=True)
        server.close()
        for link in list(self.links):
            link.close("the hub ends")

    async def _beat(self) -> None:
        """Tell the supervising program again and again that the loop turns, and for how many."""
        while True:
            self._notifier.alive()
            self._notifier.status(self._summary())
            await asyncio.sleep(min(self._notifier.beat_seconds or BEAT, BEAT))

    def _summary(self) -> str:
        clients = sum(len(members.clients) for members in self.hub.domains.values())
        return f"serves {clients} clients at {self.path}"

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
            # The connection still waits in the socket: pause, so as not to fail again and again.
            loop = asyncio.get_running_loop()
            loop.remove_reader(server)
            loop.call_later(1.0, self._accept_again, server)
            return
        peer.setblocking(False)
        try:
            self._admit(peer, caller_of(peer))
        except HubError as error:
            log.info("refused a connection: %s", error)
            with contextlib.suppress(OSError):
                text = str(error).encode()
                peer.send(wire.HEADER.pack(len(text), wire.Kind.REFUSED, 0) + text)
            peer.close()
        except Exception as error:
            log.info("refused a connection: %s", told(error))
            peer.close()

    def _admit(self, peer: socket.socket, caller: Caller) -> None:
        """Serve a connection. Raises ``HubError`` with the reason if the hub must not serve it."""
        if not may_join(caller.uid, os.geteuid()):
            raise HubError(
                f"process {caller.pid} belongs to user {caller.uid}, and this hub to user "
                f"{os.geteuid()}: start a hub of your own, or let root start one for all users"
            )
        account = self.admission.of(caller.uid)
        if not self.admission.may_connect(account):
            raise HubError(f"user {caller.uid} has too many connections already")
        link = Session(self, peer, caller, account).link
        self.silent[link] = account
        account.silent += 1
        if account.silent > MOST_SILENT:
            oldest = next(it for it, whose in self.silent.items() if whose is account)
            oldest.close("it sends no request")

    def has_spoken(self, link: Link) -> None:
        """Note that a connection is not silent any more, or has ended."""
        account = self.silent.pop(link, None)
        if account is not None:
            account.silent -= 1

    def _accept_again(self, server: socket.socket) -> None:
        if server.fileno() >= 0:
            asyncio.get_running_loop().add_reader(server, self._accept, server)

    def spawn(self, link: Link, work: Coroutine[object, object, None]) -> None:
        """Run a client's request; any error ends this client's connection."""

        async def guarded() -> None:
            try:
                await work
            except ProtocolError as error:
                link.close(f"it does not speak the protocol: {error}")
            except (HubError, AccessDenied) as error:
                refuse(link, str(error))
            except Exception as error:
                # The peer must not wait for an answer that never comes.
                log.warning("a request failed: %s", told(error))
                link.close("the hub failed")

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _go_on() -> None:
    log.info("the terminal was closed: the hub goes on")


def refuse(link: Link, why: str) -> None:
    """Tell an agent why it cannot join, and close its connection."""
    link.send(wire.Kind.REFUSED, 0, why.encode(errors="replace"))
    link.close(why)
