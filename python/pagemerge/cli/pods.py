"""``pagemerge pods``: the wishes of a Kubernetes node's pods as rules of the governor."""

from __future__ import annotations

import argparse
import logging
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pagemerge.cli import as_path, logs
from pagemerge.errors import UsageError
from pagemerge.linux.text import plain

if TYPE_CHECKING:
    from pagemerge.kubernetes.api import Cluster

log = logging.getLogger("pagemerge.pods")

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""Names of nodes and namespaces: a DNS subdomain (RFC 1123)."""


class Pods:
    """Write rules for the pods of this Kubernetes node to a configuration file of the daemon.

    A pod with the annotation pagemerge.io/merge: "true" is opted in to kernel KSM, if its namespace
    may; "select" marks only its duplicated memory; "false" opts it out. Each becomes rules by
    cgroup. The API server is asked again and again. If it does not give a complete list, the last
    rules stay. `pagemerge daemon --follow` reads the file whenever it has changed.

    Exit status: 0 after SIGTERM or SIGINT, and with --once if the file is written; 1 if it is not;
    2 for wrong usage.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        parser.add_argument("--node", required=True, metavar="NAME", help="name of this node")
        parser.add_argument(
            "--write", required=True, type=as_path, metavar="FILE", help="file to write"
        )
        parser.add_argument(
            "--config",
            type=as_path,
            metavar="FILE",
            help="configuration that comes first in the file",
        )
        parser.add_argument(
            "--namespace",
            action="append",
            metavar="NAME",
            help="pods of this namespace may opt in; may be given several times",
        )
        parser.add_argument(
            "--all-namespaces", action="store_true", help="pods of every namespace may opt in"
        )
        parser.add_argument(
            "--every",
            type=float,
            default=30.0,
            metavar="SECONDS",
            help="time between two lists, 1 to 3,600 (default: 30)",
        )
        parser.add_argument("--once", action="store_true", help="list the pods once, and exit")
        parser.add_argument(
            "--cgroup-root",
            default="/",
            metavar="PATH",
            help="the kubelet's --cgroup-root (default: /)",
        )
        parser.add_argument(
            "--kubevirt",
            action="store_true",
            help="keep the node's label kubevirt.io/ksm-enabled right, too",
        )
        parser.add_argument(
            "--host-root",
            type=as_path,
            metavar="FOLDER",
            help="for --kubevirt: where the root of the host is mounted",
        )
        parser.add_argument(
            "--server",
            metavar="URL",
            help="API server, https://HOST:PORT (default: that of this pod)",
        )
        parser.add_argument(
            "--credentials",
            type=as_path,
            metavar="FOLDER",
            help="folder with token and ca.crt of a service account (default: that of this pod)",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Mirror the wishes until SIGTERM or SIGINT; raises ``UsageError`` for wrong options."""
        from pagemerge.kubernetes.api import CREDENTIALS, Cluster
        from pagemerge.kubernetes.mirror import Mirror
        from pagemerge.kubernetes.pods import listed

        _check(args)
        root = _parts(args.cgroup_root)
        logs.to_stderr(logging.INFO)
        credentials = args.credentials or CREDENTIALS
        cluster = (
            Cluster.at(args.server, credentials) if args.server else Cluster.around(credentials)
        )
        mirror = Mirror(
            lambda: listed(cluster, args.node),
            args.config,
            args.write,
            None if args.all_namespaces else frozenset(args.namespace or ()),
            root,
        )
        if args.kubevirt:
            mirror.more = _labels(cluster, args.node, args.host_root)
        if args.once:
            return 0 if mirror.step() else 1
        ended = threading.Event()
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, lambda _ending, _frame: ended.set())
        while True:
            mirror.step()
            if ended.wait(args.every):
                return 0


def _check(args: argparse.Namespace) -> None:
    """Raise ``UsageError`` for the first option that is wrong."""
    names = [("--node", args.node), *(("--namespace", it) for it in args.namespace or ())]
    for option, name in names:
        if not _NAME.fullmatch(name):
            told = "a name has lower-case letters, digits, - and ."
            raise UsageError(f"{option} {plain(name, 60)}: {told}")
    if args.namespace and args.all_namespaces:
        raise UsageError("--namespace names some, --all-namespaces all of them: leave out one")
    if not 1 <= args.every <= 3600:
        raise UsageError("--every: give the seconds between two lists, 1 to 3,600")
    if args.host_root and not args.kubevirt:
        raise UsageError("--host-root is for --kubevirt: leave it out")
    if args.config and args.config.absolute() == args.write.absolute():
        raise UsageError("--write would replace the file of --config: name another one")


def _parts(root: str) -> tuple[str, ...]:
    """Return the parts of the kubelet's cgroup root. Raises ``UsageError`` for a part that no rule
    could name."""
    parts = tuple(part for part in root.split("/") if part)
    if not root.startswith("/") or not all(re.fullmatch(r"[\w.-]+", it, re.ASCII) for it in parts):
        told = "give a path from / whose parts have letters, digits, -, _ and ."
        raise UsageError(f"--cgroup-root {plain(root, 60)}: {told}")
    return parts


def _labels(cluster: Cluster, node: str, host_root: Path | None) -> Callable[[], None]:
    """Return what keeps KubeVirt's label right."""
    from pagemerge.kubernetes.node import LABEL, label, merges
    from pagemerge.linux.container import ksm_below
    from pagemerge.linux.ksm import Ksm

    ksm = Ksm(ksm_below(host_root)) if host_root else Ksm()

    def keep() -> None:
        if label(cluster, node, value := merges(ksm)):
            log.info("the label %s of this node is %s now", LABEL, str(value).lower())

    return keep
