"""``pagemerge status``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from pagemerge.cli import as_path
from pagemerge.cli.show import tables
from pagemerge.cli.show.words import as_json
from pagemerge.figures import duration, number, size
from pagemerge.linux.text import plain
from pagemerge.model import PAGE_SIZE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pagemerge.hub.model import Status as Counters


class Status:
    """Show what the hub has merged, for which processes, and at what cost.

    Asks this user's hub, or the one at --socket, for its counters. Their names are those of Linux's
    KSM: a stable page is a merged page, and pages "sharing" are the mappings of stable pages beyond
    the first of each.

    Exit status: 0, or 1 if no hub runs.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add --json and --socket."""
        parser.add_argument("--json", action="store_true", help="print all counters as JSON")
        parser.add_argument(
            "--socket",
            type=as_path,
            metavar="SOCKET",
            help="where the hub listens (default: $PAGEMERGE_SOCKET, else this user's hub)",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Print the status; raises ``HubError`` if no hub answers."""
        from pagemerge.hub.reach import fetch_status

        status = fetch_status(args.socket)
        if args.json:
            print(as_json(asdict(status)))
            return 0
        show(status, tables.console())
        return 0


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
