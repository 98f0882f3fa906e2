"""``pagemerge daemon``: a hub, the governor of kernel KSM, or both, in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pagemerge.cli import as_path, logs, streams
from pagemerge.errors import HubError, PagemergeError, Unsupported, UsageError
from pagemerge.figures import number
from pagemerge.hub.model import Planned
from pagemerge.linux.domain import Domain
from pagemerge.linux.notify import notifier, passed
from pagemerge.linux.text import plain
from pagemerge.model import PAGE_SIZE
from pagemerge.service import handover

if TYPE_CHECKING:
    from pagemerge.config import Configuration
    from pagemerge.linux.ksm import Ksm

FOREIGN = {
    "user": ["trace"],
    "kernel": ["socket", "until_idle"],
    "both": ["until_idle", "cpu"],
}
"""Engine -> options that mean nothing with it."""


class Daemon:
    """Run a hub in the foreground: it finds equal pages of its clients and has them merged.

    A hub starts by itself with the first program that uses pagemerge, and ends with the last one.
    Run a hub by hand to keep it running, to watch its log, or to give it settings of its own.

    With --engine kernel, the daemon drives kernel KSM instead (needs root). It lets ksmd run at
    full speed when something new can be merged that is worth the processor time, and stops it
    otherwise. At the end it restores every setting of ksmd. What was merged stays merged.

    With --engine both, the daemon runs a hub and the governor, each in a process of its own, and
    starts one again that dies. Without --engine, [service] engines in the file decides.

    SIGHUP has a daemon with --config read its file again. No client and no merged page is let go.

    Exit status: 0 after SIGTERM or SIGINT, 1 if another daemon runs already, 2 for wrong usage or
    settings, 77 if kernel KSM cannot be driven here.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        parser.add_argument(
            "--engine",
            choices=["user", "kernel", "both"],
            help="engine to use (default: as the file says, else user)",
        )
        parser.add_argument("--socket", type=as_path, help="where to listen (PAGEMERGE_SOCKET)")
        parser.add_argument(
            "--config",
            type=as_path,
            help="a TOML file with [service], [hub], [kernel] and [[rule]]",
        )
        parser.add_argument(
            "--cpu",
            type=float,
            metavar="PERCENT",
            help="limit of processor time, in percent of one core (overrides cpu_percent)",
        )
        parser.add_argument(
            "--until-idle", action="store_true", help="end when the last client has left"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="print what would be merged, and merge nothing"
        )
        parser.add_argument(
            "--trace",
            type=as_path,
            metavar="FILE",
            help="write each decision to FILE (--engine kernel)",
        )
        parser.add_argument(
            "--put-back",
            action="store_true",
            help="put back the knobs of ksmd that a killed daemon has left, and exit",
        )
        parser.add_argument(
            "--verbose",
            "-v",
            action="store_true",
            help="log clients joining and leaving, and each decision",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Serve; returns 0 at the end, or raises an error if another daemon runs already."""
        given = handover.taken()
        logs.to_stderr(logging.INFO if args.verbose or args.dry_run else logging.WARNING)
        logging.getLogger("pagemerge.service").setLevel(logging.INFO)
        if args.put_back:
            return _put_back()
        from pagemerge import config

        settings = config.read(args.config)
        engines = settings.service.engines
        engine = args.engine or ("both" if len(engines) > 1 else engines[0])
        for name in FOREIGN[engine]:
            if getattr(args, name):
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} means nothing with --engine {engine}: leave it out")
        if engine == "both":
            return _supervise(args, settings)
        return (_govern if engine == "kernel" else _serve)(args, settings, given)


def _serve(args: argparse.Namespace, settings: Configuration, given: dict[str, int] | None) -> int:
    """Run a hub. ``given``: descriptors of the daemon that supervises it; None: none does."""
    import asyncio

    from pagemerge.config import with_cpu
    from pagemerge.hub.hub import Hub
    from pagemerge.hub.listening import only_one
    from pagemerge.hub.service import Service
    from pagemerge.service.reload import Reload, told_to

    hub = Hub(with_cpu(settings.hub, args.cpu), _print_plan if args.dry_run else None)
    _return_memory()
    # Each slab and each client takes a descriptor. The usual soft limit exists only for select(2).
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    path, server = _listener(args, passed() if given is None else given)
    states, on_hangup = notifier(), None
    if args.config:
        reload = Reload(
            args.config,
            settings,
            lambda new: hub.apply(with_cpu(new.hub, args.cpu)),
            quiet=given is not None,
        )
        on_hangup = told_to(states, reload)
    try:
        with contextlib.nullcontext() if given and "lock" in given else only_one(path):
            if not args.until_idle:
                _tell_start(args, f"a hub serves at {path}", given is not None)
            service = Service(
                hub, path, args.until_idle, server=server, notifier=states, on_hangup=on_hangup
            )
            asyncio.run(service.run())
    except OSError as error:
        raise _unusable(path, error) from error
    logging.shutdown()
    # A reader thread may be waiting for a client, and a normal exit would wait for the thread.
    os._exit(streams.settle("pagemerge daemon", 0))


def _listener(args: argparse.Namespace, given: dict[str, int]) -> tuple[Path, socket.socket | None]:
    """Return where a hub listens, and its socket if another process has opened it."""
    from pagemerge.hub.listening import inherited
    from pagemerge.hub.reach import socket_path

    number = given.get("hub")
    if number is None:
        return (args.socket or socket_path()).absolute(), None
    server = inherited(number)
    path = Path(server.getsockname())
    if args.socket and args.socket.absolute() != path:
        raise UsageError(f"--socket {args.socket}: the socket unit listens at {path}: leave it out")
    return path, server


def _unusable(path: Path, error: OSError) -> HubError:
    why = error.strerror or error
    cure = "choose a --socket in a folder that belongs to you"
    return HubError(f"cannot serve at {path}: {why}; {cure}", path=str(path))


def _govern(args: argparse.Namespace, settings: Configuration, given: dict[str, int] | None) -> int:
    """Run the governor of kernel KSM."""
    from pagemerge.config import with_cpu
    from pagemerge.ksmd.borrowing import alone, borrowed
    from pagemerge.ksmd.governor import Governor, endings
    from pagemerge.service.reload import Reload, told_to

    ksm = _usable_ksm()
    kernel = with_cpu(settings.kernel, args.cpu)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(ksm))
        trace = stack.enter_context(_opened(args.trace)) if args.trace else None
        states = notifier()
        governor = Governor(kernel.goals(), ksm, dry_run=args.dry_run, trace=trace, notifier=states)
        governor.follow(settings.rules, kernel.across_users)

        def apply(new: Configuration) -> None:
            kernel = with_cpu(new.kernel, args.cpu)
            governor.goals = kernel.goals()
            governor.follow(new.rules, kernel.across_users)

        for ending in endings():
            signal.signal(ending, lambda _ending, _frame: governor.ended.set())
        if args.config:
            reload = Reload(args.config, settings, apply, quiet=given is not None)
            governor.on_hangup = told_to(states, reload)
            signal.signal(signal.SIGHUP, lambda _number, _frame: governor.hung_up.set())
        if not args.dry_run:
            governor.loan = stack.enter_context(borrowed(ksm))
        does = _governs(args)
        rules = f"{number(len(settings.rules), 'rule')} for selecting processes"
        _tell_start(args, f"{does}; {rules}", given is not None)
        governor.run()
    return 0


def _governs(args: argparse.Namespace) -> str:
    return "ksmd is left as it is" if args.dry_run else "ksmd runs while that pays"


def _usable_ksm() -> Ksm:
    """Return kernel KSM. Raises ``Unsupported`` if it cannot be driven here."""
    from pagemerge.linux.ksm import Ksm

    ksm = Ksm()
    if reason := ksm.why_not():
        raise Unsupported(reason, path=str(ksm.root))
    return ksm


def _supervise(args: argparse.Namespace, settings: Configuration) -> int:
    """Run a hub and the governor, each in a process of its own."""
    from pagemerge.hub.listening import listen, only_one
    from pagemerge.linux.ksm import locked
    from pagemerge.service.process import EngineProcess
    from pagemerge.service.reload import Reload
    from pagemerge.service.supervisor import Supervisor

    ksm, states = _usable_ksm(), notifier()
    path, server = _listener(args, passed())
    command = [sys.executable, "-m", "pagemerge", "daemon", *_shared(args)]
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(only_one(path))
            with locked(ksm.root):  # the governor will take this lock: refuse before it starts
                pass
            if server is None:
                server = listen(str(path))
                stack.callback(path.unlink, missing_ok=True)
        except OSError as error:
            raise _unusable(path, error) from error
        stack.enter_context(server)
        hub = EngineProcess(
            "the hub",
            [*command, "--engine", "user"],
            {"hub": server.fileno(), "lock": lock},
            watchdog_seconds=states.watchdog_seconds,
        )
        trace = ["--trace", str(args.trace)] if args.trace else []
        governor = EngineProcess(
            "the governor",
            [*command, "--engine", "kernel", *trace],
            mend=_restore,
            watchdog_seconds=states.watchdog_seconds,
        )
        rules = f"{number(len(settings.rules), 'rule')} for selecting processes"
        supervisor = Supervisor(
            [hub, governor],
            states,
            messages=path.with_name(f"{path.name}.notify"),
            line=f"a hub serves at {path}, and {_governs(args)}; {rules}{_more(args)}",
            reread=Reload(args.config, settings, lambda _: None) if args.config else _go_on,
            listener=server,
        )
        return supervisor.run()


def _shared(args: argparse.Namespace) -> list[str]:
    """Return the options that both engines get."""
    config = ["--config", str(args.config)] if args.config else []
    flags = [name for name in ("dry_run", "verbose") if getattr(args, name)]
    return [*config, *(f"--{name.replace('_', '-')}" for name in flags)]


def _go_on() -> bool:
    logging.getLogger("pagemerge.service").info("the terminal was closed: the daemon goes on")
    return False


def _restore() -> None:
    """Put back the knobs that a killed governor has left; log what prevents it."""
    from pagemerge.ksmd.borrowing import put_back
    from pagemerge.linux.ksm import Ksm, locked

    log = logging.getLogger("pagemerge.service")
    ksm = Ksm()
    try:
        with locked(ksm.root):
            if put_back(ksm):
                log.warning("the knobs of ksmd are back as they were before the governor")
    except PagemergeError as error:
        log.warning("the knobs of ksmd are not put back: %s", error)


def _put_back() -> int:
    """Put back what a killed daemon has left. A governor that runs needs none of that."""
    from pagemerge.ksmd.borrowing import put_back
    from pagemerge.linux.ksm import locked

    ksm = _usable_ksm()
    with locked(ksm.root):
        done = put_back(ksm)
    print("the knobs of ksmd are back as they were" if done else "no daemon has left any knob")
    return 0


def _tell_start(args: argparse.Namespace, what: str, supervised: bool) -> None:
    """Log the start at any log level, so that the terminal or log shows that the daemon runs.

    The daemon that supervises this engine tells it for both engines, once."""
    if not supervised:
        logging.getLogger("pagemerge.service").info("%s%s", what, _more(args))


def _more(args: argparse.Namespace) -> str:
    return "" if args.verbose or args.dry_run else "; --verbose logs more"


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb", 0)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", path=str(path)) from error


def _print_plan(domain: Domain, rows: tuple[Planned, ...]) -> None:
    """Print a plan in words, one line for each client."""
    from pagemerge.figures import size

    merged = sum(row.pages + row.zero_pages for row in rows) - sum(row.new_slots for row in rows)
    saves = f"would save {size(merged * PAGE_SIZE)} in {len(rows)} processes"
    print(f"{plain(str(domain))}: {saves}", flush=True)
    for row in rows:
        print(
            f"  process {row.pid}: {row.pages:,} pages would be shared by {row.mappings:,} "
            f"mappings, {row.zero_pages:,} zero pages given back, "
            f"{row.new_slots:,} new stable pages filled from it",
            flush=True,
        )
    if streams.abandoned():  # `| head`: the reader of the plans has ended
        signal.raise_signal(signal.SIGTERM)


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
