"""Names the groups that a process belongs to: its guest, container, unit, user and trust domain."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.find.sources import ProcessSource, Source
from pagemerge.linux import cgroup, identity, process, qemu
from pagemerge.linux.aside import readers
from pagemerge.linux.process import PROC

_ID = re.compile(r"(?:[a-z0-9._-]+[-:])?([0-9a-f]{64}|[0-9a-f]{32})(?:\.scope|\.service)?")
"""The last part of a container's cgroup: docker-ID.scope, libpod-ID.scope, cri-containerd-ID.scope,
or the ID alone (the cgroupfs drivers of Docker, containerd and CRI-O)."""
_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f_-]{27})")
"""A pod of Kubernetes: ``podUID``, where the systemd driver writes ``_`` for ``-``."""
_SHORT = 12
"""Characters of a container's id, as container engines print it."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

OTHERS = "(none)"
"""The group of what belongs to no group of that kind."""


def label(source: Source, kind: str) -> str:
    """Name the group of ``kind`` (a key of ``KINDS``) that ``source`` belongs to.

    The text may come from the process: print it through ``text.plain`` only.
    """
    if kind == "domain":
        return str(source.domain)
    if not isinstance(source, ProcessSource):
        return source.name if kind == "process" else OTHERS
    if kind == "process":
        return f"{source.process.pid} {source.process.name}"
    if kind == "user":
        return identity.user_name(source.process.uid)
    try:
        pid = source.process.pid
        return readers.call(pid, KINDS[kind], pid, PROC) or OTHERS
    except PagemergeError:  # it has ended, or may not be looked at
        return OTHERS


def guest(pid: int, proc: Path = PROC) -> str:
    """Name the QEMU guest of a process, with its uuid if it has one: ``web (UUID)``.

    Other processes have none: the result is empty. Source: -name and -uuid of qemu(1).
    """
    words = process.arguments(pid, proc)
    name = qemu.guest_of(words)
    if not name and not qemu.is_qemu(words):
        return ""
    uuids = [value for word, value in pairwise(words) if word in ("-uuid", "--uuid")]
    uuid = uuids[-1] if uuids and _UUID.fullmatch(uuids[-1]) else ""
    return " ".join(filter(None, (name or f"guest of process {pid}", uuid and f"({uuid})")))


def container(pid: int, proc: Path = PROC) -> str:
    """Name the container of a process by its cgroup, and the pod around it; empty if none.

    Container engines put the container's id into the cgroup's name: ``8c1f0e2ab3d4``, or
    ``pod UID / 8c1f0e2ab3d4``.
    """
    parts = cgroup.cgroup_of(cgroup.entries(pid, proc)).split("/")
    pods = [found[1].replace("_", "-") for part in parts if (found := _POD.search(part))]
    ids = [found[1][:_SHORT] for part in parts if (found := _ID.fullmatch(part))]
    return " / ".join([f"pod {it}" for it in pods[-1:]] + ids[-1:])


def unit(pid: int, proc: Path = PROC) -> str:
    """Name the systemd unit of a process; empty if it is in none."""
    return cgroup.unit_of(cgroup.cgroup_of(cgroup.entries(pid, proc)))


def _other(_pid: int, _proc: Path) -> str:
    return OTHERS


KINDS: dict[str, Callable[[int, Path], str]] = {
    "process": _other,
    "guest": guest,
    "container": container,
    "unit": unit,
    "user": _other,
    "domain": _other,
}
"""The kinds of group; the functions of those that depend on the files of a process."""
