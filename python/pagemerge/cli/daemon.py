"""``pagemerge daemon``: a hub, the governor of kernel KSM, or both, in the foreground."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from pagemerge.cli import as_path, logs, streams
from pagemerge.errors import UsageError
from pagemerge.hub.model import Planned
from pagemerge.linux.domain import Domain
from pagemerge.linux.notify import passed
from pagemerge.linux.text import plain
from pagemerge.model import PAGE_SIZE

FOREIGN = {
    "user": ["trace", "host_root", "follow"],
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

    With --config, the daemon also answers `pagemerge top`, and records for `pagemerge history`, in
    one more process ([service] api, history, metrics). SIGHUP has it read its file again. No client
    and no merged page is let go. With --follow, it does so whenever the file has changed.

    With --host-root, a daemon in a container drives kernel KSM through the host's own files.

    Exit status: 0 after SIGTERM or SIGINT, 1 if another daemon runs already, 2 for wrong usage or
    settings, 77 if kernel KSM cannot be driven here.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        parser.add_argument(
            "--engine",
            choices=["user", "kernel", "both"],
            help="what to run: user (a hub), kernel (the governor of ksmd) or both; overrides the "
            "file (default: engines in the file, else user)",
        )
        parser.add_argument(
            "--socket", type=as_path, help="where the hub listens (default: PAGEMERGE_SOCKET)"
        )
        parser.add_argument(
            "--config",
            type=as_path,
            help="configuration file: TOML with [service], [hub], [kernel] and [[rule]]",
        )
        parser.add_argument(
            "--cpu",
            type=float,
            metavar="PERCENT",
            help="share of one core to use over time; overrides the file (default: cpu_percent)",
        )
        parser.add_argument(
            "--gentle",
            action="store_true",
            help="let other programs wait at most 10%% of the time while merging; the file decides "
            "if it has latency_percent",
        )
        parser.add_argument(
            "--until-idle", action="store_true", help="end when the last client has left; hub only"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="print what would be merged, and merge nothing"
        )
        parser.add_argument(
            "--trace",
            type=as_path,
            metavar="FILE",
            help="write each decision to FILE, one line of JSON each; governor only",
        )
        parser.add_argument(
            "--follow",
            action="store_true",
            help="read the file again whenever it has changed; not with --engine user",
        )
        parser.add_argument(
            "--host-root",
            type=as_path,
            metavar="FOLDER",
            help="in a container: where the root of the host is mounted, or /sys/kernel/mm/ksm and "
            "/run/pagemerge of it",
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
        logs.to_stderr(logging.INFO if args.verbose or args.dry_run else logging.WARNING)
        logging.getLogger("pagemerge.service").setLevel(logging.INFO)
        if args.put_back:
            return _put_back(args.host_root)
        _leave_agent()
        # Forks of a process with several threads are fragile, and nothing here multiplies matrices.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from pagemerge import config
        from pagemerge.service.follow import Follower
        from pagemerge.service.options import Options

        if args.follow and not args.config:
            raise UsageError("--follow reads the file of --config again: give that option, too")
        follower = Follower(args.config) if args.follow else None
        settings = config.read(args.config)
        engines = settings.service.engines
        engine = args.engine or ("both" if len(engines) > 1 else engines[0])
        alone = args.dry_run or args.until_idle or not args.config
        watched = settings.service.watched and not alone
        for name in FOREIGN[engine]:
            if getattr(args, name) and not (name == "socket" and watched):  # for api.sock
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} means nothing with --engine {engine}: leave it out")
        if args.host_root:
            from pagemerge.linux.container import enter, ksm_below

            ksm_below(args.host_root)
            enter()
        options = Options(
            settings,
            config=args.config,
            socket=args.socket,
            cpu=args.cpu,
            gentle=args.gentle,
            until_idle=args.until_idle,
            trace=args.trace,
            verbose=args.verbose,
            dry_run=args.dry_run,
            print_plan=_print_plan if args.dry_run else None,
            host_root=args.host_root,
            follower=follower,
        )
        if engine == "both" or watched:
            from pagemerge.service.supervise import supervise

            wanted = ("user", "kernel") if engine == "both" else (engine,)
            return supervise(options, wanted, watched=watched)
        if engine == "kernel":
            from pagemerge.service.govern import govern

            return govern(options)
        from pagemerge.service.serve import serve

        status = serve(options, passed().get("hub"))
        logging.shutdown()
        # A reader thread may be waiting for a client, and a normal exit would wait for the thread.
        os._exit(streams.settle("pagemerge daemon", status))


def _leave_agent() -> None:
    """Start this program anew without the agent, if it has one inside.

    A program under ``pagemerge run --all`` may have started it: it would be a client of its own,
    and ``--until-idle`` would never come to its end.
    """
    from pagemerge.hub import preload

    if preload.leave_out():
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _put_back(host_root: Path | None) -> int:
    """Put back what a killed daemon has left. A governor that runs needs none of that."""
    from pagemerge.ksmd.borrowing import note_below, put_back
    from pagemerge.linux.ksm import locked
    from pagemerge.service.govern import usable_ksm

    ksm = usable_ksm(host_root)
    with locked(ksm.root):
        done = put_back(ksm, note_below(host_root))
    print("the knobs of ksmd are back as they were" if done else "no daemon has left any knob")
    return 0


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
