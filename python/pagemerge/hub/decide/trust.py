"""Decides which processes may share pages.

The members of one domain can read each other's merged pages, and can detect by timing what the
others hold. So a domain contains only processes that Linux lets read each other's memory anyway.
Mount namespaces are no part of it: processes that differ only in these can read each other's
memory, and services of one user with ``PrivateTmp=`` would not share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pagemerge.errors import UsageError
from pagemerge.linux.text import plain

MOST_NAME = 64
"""Characters of a domain's name."""

MOST_LABEL = 200
"""Characters of a label that are shown; all of it counts."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MOST_NAME - 1}}}")


@dataclass(frozen=True, slots=True)
class Domain:
    """A trust domain: pages are never merged across domains."""

    uid: int
    """Owner of the processes, as the kernel tells it (SO_PEERCRED, socket(7))."""
    user_namespace: int = 0
    """Inode of /proc/PID/ns/user; 0 where it cannot be read."""
    label: str = ""
    """LSM label, /proc/PID/attr/current; empty where there is none."""

    name: str = ""
    """The name that the process gives its part of the domain (``pagemerge run --domain``); empty if
    it names no part."""

    pid_namespace: int = 0
    """Inode of /proc/PID/ns/pid; 0 if it is the hub's. So a container is a domain of its own."""
    cgroup_namespace: int = 0
    """Inode of /proc/PID/ns/cgroup; 0 if it is the hub's. It distinguishes containers that run in
    the host's PID namespace."""

    def __str__(self) -> str:
        parts = [f"uid {self.uid}"]
        if self.label:
            parts.append(plain(self.label, MOST_LABEL))
        if self.pid_namespace:
            parts.append(f"pid namespace {self.pid_namespace}")
        elif self.cgroup_namespace:
            parts.append(f"cgroup namespace {self.cgroup_namespace}")
        if self.name:
            parts.append(f"domain {self.name}")
        return ", ".join(parts)


def checked_name(name: str) -> str:
    """Return ``name`` if it is valid for a domain. Raises ``UsageError`` with the cure if not.

    Names come from programs and end in terminals and logs, so they are plain words.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[: 2 * MOST_NAME]!r} cannot name a domain: use up to {MOST_NAME} of the letters "
            "a to z and A to Z, digits, '.', '_' and '-', a letter or digit first"
        )
    return name


def may_join(peer_uid: int, hub_uid: int) -> bool:
    """Return true if a process of ``peer_uid`` may be a client of a hub of ``hub_uid``.

    A hub of root serves all users, each in domains of their own; any other hub serves only its own
    user.
    """
    return hub_uid in (0, peer_uid)
