"""Runs the governor of kernel KSM, in the daemon's own process or in one that it forks."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from pathlib import Path
from typing import BinaryIO

from pagemerge.config import Configuration, overridden
from pagemerge.errors import PagemergeError, Unsupported, UsageError
from pagemerge.figures import number
from pagemerge.ksmd.borrowing import alone, borrowed, note_below, put_back
from pagemerge.ksmd.governor import Governor, endings
from pagemerge.linux.container import ksm_below
from pagemerge.linux.ksm import Ksm, locked
from pagemerge.linux.notify import notifier
from pagemerge.linux.scheduling import give_way
from pagemerge.service.options import Options
from pagemerge.service.orders import obey
from pagemerge.service.reload import Reload, told_to

log = logging.getLogger("pagemerge.service")


def govern(
    options: Options, *, supervised: bool = False, channel: socket.socket | None = None
) -> int:
    """Drive ksmd until a signal ends it.

    ``supervised``: the daemon that forked this process logs for it. ``channel``: where decisions
    are told, and orders come from (``orders``).
    """
    ksm = usable_ksm(options.host_root)
    kernel = overridden(options.settings.kernel, cpu=options.cpu, gentle=options.gentle)
    give_way(kernel.latency_percent > 0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(ksm))
        trace = stack.enter_context(_opened(options.trace)) if options.trace else None
        states = notifier()
        governor = Governor(
            kernel.goals(), ksm, dry_run=options.dry_run, trace=trace, notifier=states
        )
        governor.follow(options.settings.rules, kernel.across_users, kernel.huge_price)

        def apply(new: Configuration) -> None:
            kernel = overridden(new.kernel, cpu=options.cpu, gentle=options.gentle)
            give_way(kernel.latency_percent > 0)
            governor.goals = kernel.goals()
            governor.follow(new.rules, kernel.across_users, kernel.huge_price)

        for ending in endings():
            signal.signal(ending, lambda _ending, _frame: governor.end())
        if options.config:
            reload = Reload(options.config, options.settings, apply, quiet=supervised)
            governor.on_hangup = told_to(states, reload)
            signal.signal(signal.SIGHUP, lambda _number, _frame: governor.hang_up())
            if options.follower and not supervised:  # else the daemon follows the file
                stack.enter_context(options.follower.hanging_up())
        if not options.dry_run:
            note = note_below(options.host_root)
            governor.loan = stack.enter_context(borrowed(ksm, note))
        if channel:
            obey(channel, governor)
        if not supervised:
            options.tell_start(f"{governs(options)}; {rules(options)}")
        governor.run()
    return 0


def governs(options: Options) -> str:
    """Say what the governor does with ksmd."""
    return "ksmd is left as it is" if options.dry_run else "ksmd runs while that pays"


def rules(options: Options) -> str:
    """Say how many rules there are."""
    return f"{number(len(options.settings.rules), 'rule')} for selecting processes"


def ksm_at(host_root: Path | None) -> Ksm:
    """Return kernel KSM, in a container that of the host. Raises as ``ksm_below``."""
    return Ksm(ksm_below(host_root)) if host_root else Ksm()


def usable_ksm(host_root: Path | None) -> Ksm:
    """Return kernel KSM. Raises ``Unsupported`` if it cannot be driven here."""
    ksm = ksm_at(host_root)
    if reason := ksm.why_not():
        raise Unsupported(reason, path=str(ksm.root))
    return ksm


def restore(host_root: Path | None) -> None:
    """Put back the knobs that a killed governor has left; log what prevents it."""
    try:
        ksm = ksm_at(host_root)
        with locked(ksm.root):
            if put_back(ksm, note_below(host_root)):
                log.warning("the knobs of ksmd are back as they were before the governor")
    except PagemergeError as error:
        log.warning("the knobs of ksmd are not put back: %s", error)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb", 0)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", path=str(path)) from error
