"""``pagemerge metrics``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pagemerge.cli import as_path, logs
from pagemerge.errors import UsageError

if TYPE_CHECKING:
    from pagemerge.watch.endpoint import Address
    from pagemerge.watch.metrics import Exporter


class Metrics:
    """Print the figures of both engines as metrics for Prometheus.

    With --textfile, writes them to a file for node_exporter, which must end in .prom. With
    --listen, serves them at /metrics until it is interrupted. Only this host is served; a proxy
    with authentication can pass the figures on. Decisions of the governor come from the history
    that the daemon records.

    Exit status: 0, 1 if it cannot write or listen there, 2 for wrong usage, 77 if prometheus-client
    is not installed.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        how = parser.add_mutually_exclusive_group()
        how.add_argument(
            "--textfile",
            type=as_path,
            metavar="PATH",
            help="write a file for node_exporter, whose name ends in .prom",
        )
        how.add_argument(
            "--listen",
            metavar="ADDRESS",
            help="serve them at a loopback address, such as 127.0.0.1:9838, or at the path of a "
            "Unix socket",
        )
        parser.add_argument(
            "--every",
            type=float,
            metavar="SECONDS",
            help="write the file again every SECONDS until interrupted",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Print, write or serve; raises ``Unsupported`` without prometheus-client."""
        from pagemerge.watch import textfile
        from pagemerge.watch.collect import Collector
        from pagemerge.watch.endpoint import Address
        from pagemerge.watch.history import decided
        from pagemerge.watch.history_file import default_path
        from pagemerge.watch.metrics import Exporter

        if args.every is not None:
            if args.textfile is None:
                raise UsageError("--every writes the file of --textfile again: name that file")
            if not 0.1 <= args.every <= 3600:
                raise UsageError("--every: give the seconds between two writes, 0.1 to 3,600")
        address = None if args.listen is None else Address.parse(args.listen)
        if args.textfile is not None:
            textfile.check(args.textfile)
        exporter = Exporter(Collector().moment, lambda: decided(default_path()))
        if address is not None:
            return _serve(exporter, address)
        if args.textfile is not None:
            return _write(exporter, args.textfile, args.every)
        print(exporter.text().decode(), end="")
        return 0


def _write(exporter: Exporter, path: Path, every: float | None) -> int:
    """Write the file, once or again and again."""
    from pagemerge.watch import textfile

    textfile.put(path, exporter.text())
    if every is not None:
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda _ending, _frame: ended.set())
        while not ended.wait(every):
            textfile.put(path, exporter.text())
    return 0


def _serve(exporter: Exporter, address: Address) -> int:
    """Serve until SIGTERM or SIGINT."""
    from pagemerge.watch.endpoint import Endpoint
    from pagemerge.watch.metrics import CONTENT_TYPE

    logs.to_stderr(logging.WARNING)

    async def serve() -> None:
        ended = asyncio.Event()
        for ending in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(ending, ended.set)
        async with Endpoint(exporter.text, CONTENT_TYPE).serving(address) as where:
            print(f"pagemerge metrics: serves {where}", file=sys.stderr, flush=True)
            await ended.wait()

    asyncio.run(serve())
    return 0
