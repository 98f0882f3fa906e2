"""``pagemerge daemon``: a hub, or the governor of kernel KSM, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
from pathlib import Path
from typing import BinaryIO

from pagemerge.cli import as_path, logs, streams
from pagemerge.errors import HubError, Unsupported, UsageError
from pagemerge.figures import number
from pagemerge.hub.model import Planned
from pagemerge.linux.domain import Domain
from pagemerge.linux.text import plain
from pagemerge.model import PAGE_SIZE


class Daemon:
    """Run a hub in the foreground: it finds equal pages of its clients and has them merged.

    A hub starts by itself with the first program that uses pagemerge, and ends with the last one.
    Run a hub by hand to keep it running, to watch its log, or to give it settings of its own.

    With --engine kernel, the daemon drives kernel KSM instead (needs root). It lets ksmd run at
    full speed when something new can be merged that is worth the processor time, and stops it
    otherwise. At the end it restores every setting of ksmd. What was merged stays merged.

    Exit status: 0 after SIGTERM or SIGINT, 1 if another daemon runs already, 2 for wrong usage or
    settings, 77 if kernel KSM cannot be driven here.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        parser.add_argument(
            "--engine", choices=["user", "kernel"], default="user", help="engine to use"
        )
        parser.add_argument("--socket", type=as_path, help="where to listen (PAGEMERGE_SOCKET)")
        parser.add_argument(
            "--config", type=as_path, help="a TOML file with [hub], or with [kernel] and [[rule]]"
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
            "--verbose",
            "-v",
            action="store_true",
            help="log clients joining and leaving, and each decision",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Serve; returns 0 at the end, or raises an error if another daemon runs already."""
        logs.to_stderr(logging.INFO if args.verbose or args.dry_run else logging.WARNING)
        foreign = {"user": ["trace"], "kernel": ["socket", "until_idle"]}[args.engine]
        for name in foreign:
            if getattr(args, name):
                option = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{option} means nothing with --engine {args.engine}: leave it out"
                )
        return _govern(args) if args.engine == "kernel" else _serve(args)


def _serve(args: argparse.Namespace) -> int:
    """Run a hub."""
    from pagemerge.config import load, with_cpu
    from pagemerge.hub.hub import Hub
    from pagemerge.hub.reach import socket_path
    from pagemerge.hub.service import Service, only_one

    settings = with_cpu(load(args.config), args.cpu)
    _return_memory()
    # Each slab and each client takes a descriptor. The usual soft limit exists only for select(2).
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    path = (args.socket or socket_path()).absolute()
    try:
        with only_one(path):
            if not args.until_idle:
                _tell_start(args, f"a hub serves at {path}")
            asyncio.run(
                Service(
                    Hub(settings, _print_plan if args.dry_run else None), path, args.until_idle
                ).run()
            )
    except OSError as error:
        why = error.strerror or error
        cure = "choose a --socket in a folder that belongs to you"
        raise HubError(f"cannot serve at {path}: {why}; {cure}", path=str(path)) from error
    logging.shutdown()
    # A reader thread may be waiting for a client, and a normal exit would wait for the thread.
    os._exit(streams.settle("pagemerge daemon", 0))


def _govern(args: argparse.Namespace) -> int:
    """Run the governor of kernel KSM."""
    from pagemerge.config import load_kernel, load_rules, with_cpu
    from pagemerge.ksmd.enrolment import Enrolment, Kernel
    from pagemerge.ksmd.governor import Governor, alone, borrowed, endings
    from pagemerge.ksmd.ruling import Opting
    from pagemerge.linux.ksm import Ksm

    settings, rules = with_cpu(load_kernel(args.config), args.cpu), load_rules(args.config)
    ksm = Ksm()
    if reason := ksm.why_not():
        raise Unsupported(reason, path=str(ksm.root))
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(ksm))
        trace = stack.enter_context(_opened(args.trace)) if args.trace else None
        governor = Governor(settings.goals(), ksm, dry_run=args.dry_run, trace=trace)
        if rules:
            opting = Opting(rules, across_users=settings.across_users)
            beside = governor.mergeable
            marks = Kernel(settings.across_users)
            governor.enrolment = Enrolment(
                opting, lambda: beside.pids, marks=marks, dry_run=args.dry_run
            )
        for ending in endings():
            signal.signal(ending, lambda _ending, _frame: governor.ended.set())
        if not args.dry_run:
            stack.enter_context(borrowed(ksm))
        does = "ksmd is left as it is" if args.dry_run else "ksmd runs while that pays"
        _tell_start(args, f"{does}; {number(len(rules), 'rule')} for selecting processes")
        governor.run()
    return 0


def _tell_start(args: argparse.Namespace, what: str) -> None:
    """Log the start at any log level, so that the terminal or log shows that the daemon runs."""
    more = "" if args.verbose or args.dry_run else "; --verbose logs more"
    log = logging.getLogger("pagemerge.daemon")
    log.setLevel(logging.INFO)
    log.info("%s%s", what, more)


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
