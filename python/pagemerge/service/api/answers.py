"""Answers calls: one method of ``Answers`` for each method of the interfaces."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec

from pagemerge import __version__
from pagemerge.errors import AccessDenied, UsageError
from pagemerge.hub.contact import Caller
from pagemerge.linux.fault import told
from pagemerge.service.api import calls, child, refusal
from pagemerge.service.api.accounts import Account, Accounts
from pagemerge.service.api.calls import METHODS, Parameters
from pagemerge.service.api.control import Control
from pagemerge.service.api.interface import description
from pagemerge.service.api.moments import Moments, in_thread, in_time, textual, visible
from pagemerge.service.api.places import Places
from pagemerge.service.api.wire import Call, encoded
from pagemerge.watch.model import Moment

log = logging.getLogger("pagemerge.api")

T = TypeVar("T")

History = Callable[[float, int], Iterable[Moment]]
"""Returns the moments since a Unix time, oldest first; of more than a number, the latest ones.
Called in a thread."""

MOST_CHANGES = 8
"""Changes that may wait for another change."""
MOST_SCANS = 2
"""Scans at once of all users, one for each; root and the owner may have as many besides."""
LONGEST_SCAN = 900.0
"""Seconds that the scan of a user without privilege may take."""
MOST_HISTORIES = 4
"""Calls of ``History`` at once of all users, one for each, of up to ``MOST_MOMENTS``: a moment
takes about 20 kB until the caller has read it. There is no limit for root and the owner."""
MOST_MOMENTS = 1000
URL = "https://github.com/pagemerge/pagemerge"

Parts = AsyncGenerator[tuple[bytes, bool], None]
"""The parameters of each reply in JSON, and whether another reply follows."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call, and who calls."""

    call: Call
    caller: Caller
    account: Account
    is_gone: Callable[[], bool] = field(default=lambda: False)
    """Tells if the caller has closed the connection."""

    @property
    def more(self) -> bool:
        """True if the caller accepts more than one reply."""
        return bool(self.call.more)


class Answers:
    """Answers calls from moments, a control of the engines, and a history if one is kept."""

    def __init__(
        self, moments: Moments, control: Control, history: History | None, accounts: Accounts
    ) -> None:
        self._moments, self._control, self._history = moments, control, history
        self._accounts = accounts
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._scans = Places("scans", MOST_SCANS, MOST_SCANS)
        self._histories = Places("calls of History", MOST_HISTORIES)

    def answer(self, request: Request) -> Parts:
        """Begin to answer a call. Raises ``Refusal`` for a call that no method answers."""
        call = request.call
        interface, _, name = call.method.rpartition(".")
        if interface not in METHODS:
            raise refusal.of_service("InterfaceNotFound", interface=_shown(interface))
        if name not in METHODS[interface]:
            raise refusal.of_service("MethodNotFound", method=_shown(call.method))
        if call.upgrade:
            why = "this service has no other protocol to go on in"
            raise refusal.of_service("InvalidParameter", parameter="upgrade", message=why)
        method = METHODS[interface][name]
        if method.needs_more and (call.oneway or not request.more):
            raise refusal.of_service("ExpectedMore")
        try:
            given = b"{}" if bytes(call.parameters) == b"null" else call.parameters
            parameters = msgspec.json.decode(given, type=method.parameters)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise refusal.of_parameters(error) from None
        parts: Parts = getattr(self, f"_call_{_snake(name)}")(request, parameters)
        return parts

    async def _call_get_info(self, _request: Request, _: Parameters) -> Parts:
        info = calls.InfoReply("pagemerge", "pagemerge", __version__, URL, list(METHODS))
        yield encoded(info), False

    async def _call_get_interface_description(
        self, _request: Request, parameters: calls.DescriptionParameters
    ) -> Parts:
        if parameters.interface not in METHODS:
            named = _shown(parameters.interface)
            raise refusal.of_service("InterfaceNotFound", interface=named)
        yield encoded(calls.DescriptionReply(description(parameters.interface))), False

    async def _call_status(self, request: Request, _: Parameters) -> Parts:
        seen = await self._moments.now()
        yield seen.reply(self._limit(request)), False

    async def _call_clients(self, request: Request, parameters: calls.ClientsParameters) -> Parts:
        seen = await self._moments.now()
        engine = parameters.engine
        yield seen.rows(self._limit(request), lambda it: engine in (None, it.engine), engine), False

    async def _call_guests(self, request: Request, _: Parameters) -> Parts:
        seen = await self._moments.now()
        yield seen.rows(self._limit(request), lambda it: bool(it.guest), "guests"), False

    async def _call_history(self, request: Request, parameters: calls.HistoryParameters) -> Parts:
        history = self._history
        if history is None:
            raise refusal.ours(
                "NoHistory", "this service keeps no history: switch it on in its configuration"
            )
        since, most = time.time() - (parameters.seconds or 3600.0), parameters.most or 1000
        is_privileged = self._accounts.is_privileged(request.caller.uid)
        if not is_privileged:
            most = min(most, MOST_MOMENTS)
        with self._histories.place(request.caller.uid, is_privileged=is_privileged):
            async with self._histories.turn(is_privileged=is_privileged):
                work = asyncio.ensure_future(in_thread(lambda: list(history(since, most))[-most:]))
                found = await in_time(work, "the history cannot be read")
            if not found:
                yield encoded(calls.HistoryReply(None)), False
            for left, moment in zip(range(len(found) - 1, -1, -1), found, strict=True):
                shown = visible(moment, self._limit(request))
                shown = msgspec.structs.replace(shown, decisions=textual(shown.decisions))
                yield encoded(calls.HistoryReply(shown)), left > 0

    async def _call_decisions(self, request: Request, _: Parameters) -> Parts:
        self._only_owner(request)
        seen = await self._moments.now()
        yield encoded(calls.DecisionsReply(list(textual(seen.decisions)))), False

    async def _call_attach(self, request: Request, parameters: calls.AttachParameters) -> Parts:
        self._only_owner(request)
        attach = partial(
            self._control.attach,
            parameters.processes,
            select=bool(parameters.select),
            across_users=bool(parameters.across_users),
            dry_run=bool(parameters.dry_run),
        )
        done = await self._change(attach)
        yield encoded(calls.MarkedReply(done)), False

    async def _call_detach(self, request: Request, parameters: calls.DetachParameters) -> Parts:
        self._only_owner(request)
        dry_run = bool(parameters.dry_run)
        done = await self._change(
            partial(self._control.detach, parameters.processes, dry_run=dry_run)
        )
        yield encoded(calls.MarkedReply(done)), False

    async def _call_pause(self, request: Request, _: Parameters) -> Parts:
        self._only_owner(request)
        changed = await self._change(self._control.pause)
        yield encoded(calls.ChangedReply(changed)), False

    async def _call_resume(self, request: Request, _: Parameters) -> Parts:
        self._only_owner(request)
        changed = await self._change(self._control.resume)
        yield encoded(calls.ChangedReply(changed)), False

    async def _call_scan(self, request: Request, parameters: calls.ScanParameters) -> Parts:
        asked = {"words": _words(parameters), "user": self._rights(request.caller)}
        uid = request.caller.uid
        is_privileged = self._accounts.is_privileged(uid)
        longest = None if is_privileged else LONGEST_SCAN
        if longest is not None and (parameters.watch_seconds or 0.0) >= longest:
            raise UsageError(
                f"a scan of another user than root may take {longest:g} s: give less "
                "watch_seconds, or run `pagemerge scan --watch` yourself"
            )
        with self._scans.place(uid, is_privileged=is_privileged):
            async with aclosing(child.run("pagemerge.cli.scanner", asked, longest)) as lines:
                async for said in lines:
                    if request.is_gone():
                        return
                    result = said.result if bytes(said.result) else None
                    if result is not None or request.more:
                        reply = calls.ScanReply(said.done, said.total, result)
                        yield encoded(reply), result is None

    async def _call_subscribe(
        self, request: Request, parameters: calls.SubscribeParameters
    ) -> Parts:
        loop, since, uid = asyncio.get_running_loop(), None, self._limit(request)
        interval, count = parameters.interval_seconds or 2.0, parameters.count
        due, sent = loop.time(), 0
        while not request.is_gone():
            seen = await self._moments.now()
            sent += 1
            yield seen.reply(uid, since), sent != count
            if sent == count:
                return
            since = seen.number
            due = max(due + interval, loop.time())  # a slow reader gets fewer, not all at once
            await asyncio.sleep(due - loop.time())

    def _limit(self, request: Request) -> int | None:
        """Return the user whose rows a caller may see; None: all."""
        uid = request.caller.uid
        return None if self._accounts.is_privileged(uid) else uid

    def _only_owner(self, request: Request) -> None:
        uid = request.caller.uid
        if not self._accounts.is_privileged(uid):
            method = request.call.method.rpartition(".")[2]
            raise refusal.not_owner(method, uid, self._accounts.owner)

    def _rights(self, caller: Caller) -> dict[str, object] | None:
        """Return whose rights a scan gets; None: those of the service."""
        if self._accounts.is_privileged(caller.uid):
            return None
        if os.geteuid() != 0:
            raise AccessDenied(
                f"this service is user {self._accounts.owner}'s, and cannot scan with the rights "
                f"of user {caller.uid}: run `pagemerge scan` yourself"
            )
        return {"uid": caller.uid, "gid": caller.gid, "groups": sorted(caller.groups or ())}

    async def _change(self, work: Callable[[], Awaitable[T]]) -> T:
        """Make a change once no other change is made; it goes on if the caller goes away.

        Raises ``Refusal`` if too many changes wait.
        """
        if len(self._changes) > MOST_CHANGES:
            raise refusal.ours("Busy", f"{len(self._changes)} changes wait already: try later")

        async def change() -> T:
            async with self._changing:
                return await work()

        task = asyncio.create_task(change())
        self._changes.add(task)
        task.add_done_callback(self._changed)
        return await asyncio.shield(task)

    def _changed(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.info("a change was not made: %s", told(error))


def _words(it: calls.ScanParameters) -> list[str]:
    """Return the arguments of ``pagemerge scan`` for a call."""
    words = ["--json"]
    words += [f"--{name}" for name in ("all", "what", "why", "compress") if getattr(it, name)]
    options: dict[str, Any] = {
        "group-by": it.group_by,
        "watch": it.watch_seconds,
        "top": it.top,
        "fit": it.fit,
    }
    words += [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [*words, "--", *(it.processes or ())]


def _snake(name: str) -> str:
    return "".join(f"_{it.lower()}" if it.isupper() else it for it in name).removeprefix("_")


def _shown(name: str) -> str:
    """Return a name from a caller, for the reply to it."""
    return name[:200]
