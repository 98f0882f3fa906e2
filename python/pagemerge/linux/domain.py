"""Trust domains: which processes may share pages, by what the kernel says of them.

The members of one domain can read each other's merged pages, and can detect by timing what the
others hold. So a domain contains only processes that Linux lets read each other's memory anyway.
Mount namespaces are no part of it: processes that differ only in these can read each other's
memory, and services of one user with ``PrivateTmp=`` would not share.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux import text
from pagemerge.linux.process import PROC, read_newer

MOST_LABEL = 200
"""Characters of a label that are shown; all of it counts."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A trust domain: pages are never merged across domains."""

    uid: int
    """Owner of the processes, as the kernel tells it."""
    user_namespace: int = 0
    """Inode of /proc/PID/ns/user; 0 where it cannot be read."""
    label: str = ""
    """LSM label, /proc/PID/attr/current; empty where there is none."""

    name: str = ""
    """The name that the process gives its part of the domain (``pagemerge run --domain``); empty if
    it names no part."""

    pid_namespace: int = 0
    """Inode of /proc/PID/ns/pid; 0 if it is our own. So a container is a domain of its own."""
    cgroup_namespace: int = 0
    """Inode of /proc/PID/ns/cgroup; 0 if it is our own. It distinguishes containers that run in the
    host's PID namespace."""

    def __str__(self) -> str:
        parts = [f"uid {self.uid}"]
        if self.label:
            parts.append(text.plain(self.label, MOST_LABEL))
        if self.pid_namespace:
            parts.append(f"pid namespace {self.pid_namespace}")
        elif self.cgroup_namespace:
            parts.append(f"cgroup namespace {self.cgroup_namespace}")
        if self.name:
            parts.append(f"domain {self.name}")
        return ", ".join(parts)


Namespaces = tuple[int, int, int]
"""Inodes of a user, a pid and a cgroup namespace; 0 for one that is not known."""


def namespaces(pid: int | str, proc: Path = PROC) -> Namespaces:
    """Return the namespaces of process ``pid`` (or ``"self"``)."""

    def inode(name: str) -> int:
        try:
            return os.stat(f"{proc}/{pid}/ns/{name}").st_ino  # noqa: PTH116
        except OSError:  # no such namespace in this kernel, or no right to see it
            return 0

    return inode("user"), inode("pid"), inode("cgroup")


def domain_of(uid: int, found: Namespaces, label: bytes, own: Namespaces, name: str = "") -> Domain:
    """Return the domain of a process with these properties; ``own``: our own namespaces."""
    user, pid, cgroup = found
    return Domain(
        uid,
        user,
        label_of(label),
        name,
        pid if pid != own[1] else 0,
        cgroup if cgroup != own[2] else 0,
    )


def of_process(pid: int, uid: int, own: Namespaces, proc: Path = PROC) -> Domain:
    """Return the domain of process ``pid``, whose effective user is ``uid``.

    A name that the process gives itself is not known here. What cannot be read counts as unknown.
    """
    try:
        label = read_newer(pid, "attr/current", proc) or b""
    except PagemergeError:  # no security module, or no right to see it
        label = b""
    return domain_of(uid, namespaces(pid, proc), label, own)


def label_of(raw: bytes) -> str:
    """Return a label for comparison: the kernel ends it with a newline in one place, and with NUL
    in another."""
    return text.decoded(raw.strip(b"\0\n "))
