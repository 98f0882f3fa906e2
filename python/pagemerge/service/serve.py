"""Runs a hub, in the daemon's own process or in one that it forks."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import resource
import socket
from collections.abc import Callable
from pathlib import Path

from pagemerge.config import Configuration, overridden
from pagemerge.errors import HubError, UsageError
from pagemerge.hub.hub import Hub
from pagemerge.hub.listening import inherited, only_one
from pagemerge.hub.reach import socket_path
from pagemerge.hub.service import Service
from pagemerge.linux.notify import Notifier, notifier
from pagemerge.linux.oom import last_to_end
from pagemerge.linux.scheduling import give_way
from pagemerge.service.options import Options
from pagemerge.service.reload import Reload, told_to


def serve(options: Options, passed: int | None, *, supervised: bool = False) -> int:
    """Run a hub until SIGTERM or SIGINT, or until its last client has left if that is an option.

    ``passed``: the descriptor of its socket, if another process has opened it. ``supervised``: the
    daemon that forked this process holds the lock of the socket, and logs for both.
    """
    settings = overridden(options.settings.hub, cpu=options.cpu, gentle=options.gentle)
    hub = Hub(settings, options.print_plan)
    give_way(hub.settings.latency_percent > 0)
    _return_memory()
    last_to_end()
    # Each slab and each client takes a descriptor.
    raise_descriptors()
    path, server = listener(options, passed)
    states = notifier()
    try:
        with contextlib.nullcontext() if supervised else only_one(path):
            if not (supervised or options.until_idle):
                options.tell_start(f"a hub serves at {path}")
            service = Service(
                hub,
                path,
                options.until_idle,
                server=server,
                notifier=states,
                on_hangup=_on_hangup(options, hub, states, supervised),
            )
            asyncio.run(service.run())
    except OSError as error:
        raise unusable(path, error) from error
    return 0


def _on_hangup(
    options: Options, hub: Hub, states: Notifier, supervised: bool
) -> Callable[[], None] | None:
    if not options.config:
        return None

    def apply(new: Configuration) -> None:
        hub.apply(overridden(new.hub, cpu=options.cpu, gentle=options.gentle))
        give_way(hub.settings.latency_percent > 0)

    return told_to(states, Reload(options.config, options.settings, apply, quiet=supervised))


def raise_descriptors() -> None:
    """Allow this process as many descriptors as its hard limit says: the usual soft limit exists
    only for select(2)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def listener(options: Options, passed: int | None) -> tuple[Path, socket.socket | None]:
    """Return where a hub listens, and its socket if another process has opened it.

    Raises ``UsageError`` if that socket is another one than the options say.
    """
    if passed is None:
        return (options.socket or socket_path()).absolute(), None
    server = inherited(passed)
    path = Path(server.getsockname())
    if options.socket and options.socket.absolute() != path:
        raise UsageError(
            f"--socket {options.socket}: the socket unit listens at {path}: leave it out"
        )
    return path, server


def unusable(path: Path, error: OSError) -> HubError:
    """Return the error for a path at which a hub cannot listen."""
    why = error.strerror or error
    cure = "choose a --socket in a folder that belongs to you"
    return HubError(f"cannot serve at {path}: {why}; {cure}", path=str(path))


def _return_memory() -> None:
    """Have libc return the memory of large arrays to the kernel when they are freed (mallopt(3)).

    A hub needs them only for short peaks. By default glibc raises its threshold for mappings when
    the first large array is freed, and then keeps the memory of the next ones. It should keep the
    memory of smaller arrays: returning it caused half of the hub's page faults. Other C libraries
    have no mallopt, and do not keep large arrays.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 4 << 20)
        mallopt(trim_threshold, 8 << 20)
        mallopt(arena_max, 2)
