"""Who may share pages with whom.

The members of one domain can read each other's merged pages, and tell by timing what the others
hold. So a domain is no wider than what Linux lets read each other's memory anyway. Mount
namespaces are no part of it: processes that differ in nothing else can read each other's memory,
and services of one user with ``PrivateTmp=`` would not share.
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
    """A trust domain: pages never merge across."""

    uid: int
    """Owner of the processes, as the kernel tells it (SO_PEERCRED, socket(7))."""
    user_namespace: int = 0
    """Inode of /proc/PID/ns/user; 0 where it cannot be read."""
    label: str = ""
    """LSM label, /proc/PID/attr/current; empty where there is none."""

    name: str = ""
    """What the process calls its part of all that (``pagemerge run --domain``); empty: no part."""

    pid_namespace: int = 0
    """Inode of /proc/PID/ns/pid; 0 if it is the hub's. So a container is a domain of its own."""
    cgroup_namespace: int = 0
    """Inode of /proc/PID/ns/cgroup; 0 if it is the hub's. It tells containers apart that were
    started with the host's PID namespace."""

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
    """``name``, if a domain may be called so. Raises ``UsageError`` with the cure if not.

    Names come from programs and end in terminals and logs, so they are plain words.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[: 2 * MOST_NAME]!r} cannot name a domain: use up to {MOST_NAME} of the letters "
            "a to z and A to Z, digits, '.', '_' and '-', a letter or digit first"
        )
    return name


def may_join(peer_uid: int, hub_uid: int) -> bool:
    """May a process of ``peer_uid`` be a client of a hub of ``hub_uid``?

    A hub of root serves everybody, each in a domain of their own; any other only its own user.
    """
    return hub_uid in (0, peer_uid)
