"""Runs the daemon of several processes: the engines, and the watch that shows what they do."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Collection
from pathlib import Path

from pagemerge.hub.listening import listen, only_one
from pagemerge.linux.ksm import locked
from pagemerge.linux.notify import notifier, passed
from pagemerge.linux.oom import last_to_end
from pagemerge.service.govern import govern, governs, ksm_at, restore, rules, usable_ksm
from pagemerge.service.options import Options
from pagemerge.service.process import EngineProcess
from pagemerge.service.reload import Reload
from pagemerge.service.serve import listener, serve, unusable
from pagemerge.service.supervisor import Supervisor
from pagemerge.service.watch import watch

log = logging.getLogger("pagemerge.service")


def supervise(options: Options, engines: Collection[str], *, watched: bool) -> int:
    """Run engines (user, kernel) until SIGTERM or SIGINT, and the watch if ``watched``.

    Returns the exit status. Raises ``PagemergeError`` if an engine cannot run here, or runs
    already.
    """
    last_to_end()  # all processes of the daemon inherit it
    states = notifier()
    path, server = listener(options, passed().get("hub"))
    does: list[str] = []
    parts: list[EngineProcess] = []
    with contextlib.ExitStack() as stack:
        if "user" in engines:
            try:
                lock = stack.enter_context(only_one(path))
                if server is None:
                    server = listen(str(path))
                    stack.callback(path.unlink, missing_ok=True)
            except OSError as error:
                raise unusable(path, error) from error
            stack.enter_context(server)
            parts.append(_hub(options, server.fileno(), lock))
            does.append(f"a hub serves at {path}")
        if "kernel" in engines:
            ksm = usable_ksm(options.host_root)
            with locked(ksm.root):  # the governor will take this lock: refuse before it starts
                pass
            ends = [stack.enter_context(it) for it in socket.socketpair(type=socket.SOCK_DGRAM)]
            parts.append(_governor(options, ends[0] if watched else None))
            does.append(f"{governs(options)}; {rules(options)}")
        if watched:
            parts.append(_watch(options, path, ends[1] if "kernel" in engines else None))
        for part in parts:
            part.watchdog_seconds = states.watchdog_seconds
        return Supervisor(
            parts,
            states,
            line=f"{', and '.join(does)}{options.more}",
            reread=_reread(options),
            listener=server,
            has_changed=options.follower.changed if options.follower else None,
        ).run()


def _hub(options: Options, server: int, lock: int) -> EngineProcess:
    return EngineProcess(
        "the hub",
        "pagemerge-hub",
        lambda: serve(options, server, supervised=True),
        (server, lock),
    )


def _governor(options: Options, channel: socket.socket | None) -> EngineProcess:
    return EngineProcess(
        "the governor",
        "pagemerge-ksm",
        lambda: govern(options, supervised=True, channel=channel),
        (channel.fileno(),) if channel else (),
        mend=lambda: restore(options.host_root),
    )


def _watch(options: Options, hub: Path, channel: socket.socket | None) -> EngineProcess:
    return EngineProcess(
        "the watch",
        "pagemerge-watch",
        lambda: watch(
            options.settings.service,
            hub,
            hub.with_name("api.sock"),
            channel,
            ksm_at(options.host_root),
        ),
        (channel.fileno(),) if channel else (),
    )


def _reread(options: Options) -> Callable[[], bool]:
    """Return what to do upon SIGHUP."""
    if options.config:
        return Reload(options.config, options.settings, lambda _: None)

    def go_on() -> bool:
        log.info("the terminal was closed: the daemon goes on")
        return False

    return go_on
