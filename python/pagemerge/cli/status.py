"""``pagemerge status``."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from pagemerge.cli import as_path, as_size, streams
from pagemerge.cli.show import tables
from pagemerge.cli.show.words import as_json
from pagemerge.errors import UsageError
from pagemerge.figures import duration, number, size
from pagemerge.linux.text import plain
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pagemerge.hub.model import Status as Counters


class Status:
    """Show what both engines have merged, for which processes, and at what cost.

    Looks twice, a second apart, so that costs and unsharing are those of now. With --socket, asks
    only the hub at SOCKET for its counters. Their names are those of Linux's KSM: a stable page is
    a merged page, and pages "sharing" are the mappings of stable pages beyond the first of each.

    Exit status: 0, or 1 if no hub runs and kernel KSM does nothing. With --check: 0 if the reserve
    is safe, 1 (warning) if writes to all merged pages would take it, 2 (critical) if a burst of
    them would, 3 if it is not known.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        parser.add_argument("--json", action="store_true", help="print all figures as JSON")
        parser.add_argument(
            "--watch",
            nargs="?",
            type=float,
            const=2.0,
            metavar="SECONDS",
            help="look again every SECONDS until interrupted; without a value, 2",
        )
        parser.add_argument(
            "--check",
            action="store_true",
            help="print one line for a monitoring system: is the reserve safe?",
        )
        parser.add_argument(
            "--reserve",
            type=as_size,
            metavar="SIZE",
            help="memory that has to stay available (2G), for --check (default: 0)",
        )
        parser.add_argument(
            "--socket",
            type=as_path,
            metavar="SOCKET",
            help="print only the counters of the hub that listens there",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Print the status; raises ``HubError`` if no hub answers at --socket."""
        from pagemerge.hub.reach import fetch_status

        if args.watch is not None and not 0.1 <= args.watch <= 3600:
            raise UsageError("--watch: give the seconds between two looks, 0.1 to 3,600")
        if args.reserve is not None and not args.check:
            raise UsageError("--reserve goes with --check")
        for option in ("watch", "check"):
            if args.socket and getattr(args, option):
                raise UsageError(f"--{option} is about both engines: leave --socket out")
        if args.check:
            if args.json or args.watch is not None:
                raise UsageError("--check prints one line: leave --json and --watch out")
            return _check(args.reserve or 0)
        if not args.socket:
            return _both(args.watch, args.json)
        status = fetch_status(args.socket)
        if args.json:
            print(as_json(asdict(status)))
            return 0
        show(status, tables.console())
        return 0


def _check(reserve_bytes: int) -> int:
    """Look twice, and print the line for a monitoring system."""
    from pagemerge.cli.show.check import check
    from pagemerge.watch.collect import Collector
    from pagemerge.watch.reserve import pages_per_second, reserve

    collector = Collector()
    before = collector.moment()
    time.sleep(1.0)
    now = collector.moment()
    line, status = check(now, reserve(now, pages_per_second(before, now), reserve_bytes))
    print(line)
    return status


def _both(every: float | None, is_json: bool) -> int:
    """Show both engines, once or again and again."""
    from pagemerge.cli.show import engines
    from pagemerge.watch.collect import Collector
    from pagemerge.watch.rates import Rates, row_separations

    collector, console = Collector(), tables.console()
    before = collector.moment()
    while True:
        time.sleep(every or 1.0)
        now = collector.moment()
        told = now, Rates.between(before, now), collector.no_hub, row_separations(before, now)
        if is_json:
            print(as_json(engines.figures(*told)), flush=True)
        else:
            if every and console.is_terminal:
                console.clear()
            engines.show(console, *told)
        if every is None:
            return 0 if now.user or (now.kernel and (now.kernel.run or now.saved_bytes)) else 1
        if streams.abandoned():  # `| head`
            return 0
        before = now


def show(status: Counters, console: Console) -> None:
    """Print the summary, one line for each client, and the notes."""
    tables.show(console, sentence(status))
    if status.clients:
        console.print(clients(status, console.width))
    for note in notes(status):
        tables.show(console, note)


def sentence(status: Counters) -> str:
    """Write the gain and the cost in one sentence."""
    merged = status.pages_shared + status.pages_sharing
    kept = f"The hub keeps {number(status.pages_shared, 'stable page')} in place of {merged:,}"
    if status.zero_pages:
        kept += f", and gave back {number(status.zero_pages, 'zero page')}"
    profit = status.general_profit_bytes
    gain = (
        f"{size(profit)} saved" if profit >= 0 else f"it takes {size(-profit)} more than it saves"
    )
    who = number(len(status.clients), "client")
    share = status.cpu_seconds / status.seconds if status.seconds > 0 else 0.0
    cost = f"at {share:.1%} of a core over {duration(status.seconds)}"
    return f"{kept}: {gain} for {who}, {cost}."


def clients(status: Counters, width: int) -> Table:
    """Make a table of clients for a screen of ``width`` columns; the largest gain comes first."""
    texts = ("pid", "name", "domain", "barrier")
    figures = ("regions", "mergeable", "merged", "zero", "mappings")
    rows = [
        [
            str(one.pid),
            one.name,
            one.domain,
            one.barrier,
            f"{one.regions:,}",
            size(one.bytes),
            size(one.merged_pages * PAGE_SIZE),
            size(one.zero_pages * PAGE_SIZE),
            f"{one.mappings:,}",
        ]
        for one in sorted(status.clients, key=lambda one: -(one.merged_pages + one.zero_pages))
    ]
    # The columns that identify a client stay longest.
    spare = ("regions", "mappings", "barrier")
    return tables.fitted(rows, width, texts, figures, (*texts, *figures), spare)


def notes(status: Counters) -> list[str]:
    """List the pages that were left alone, and why: one line for each client and reason."""
    found = []
    for one in status.clients:
        who = f"{one.pid} {plain(one.name)}"
        if one.note:
            found.append(f"{who}: {plain(one.note)}")
        for reason, pages in sorted(one.skipped.items()):
            if pages:
                left = number(pages, "candidate page")
                found.append(f"{who}: {left} left alone: {plain(reason)}")
    return found
