"""Who may share pages with whom.

The members of one domain can read each other's merged pages, and tell by timing what the others
hold. So a domain is no wider than what Linux lets read each other's memory anyway.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Domain:
    """A trust domain: pages never merge across."""

    uid: int
    """Owner of the processes, as the kernel tells it (SO_PEERCRED, socket(7))."""
    user_namespace: int = 0
    """Inode of /proc/PID/ns/user; 0 where it cannot be read."""
    label: str = ""
    """LSM label, /proc/PID/attr/current; empty where there is none."""

    def __str__(self) -> str:
        parts = [f"uid {self.uid}"]
        if self.label:
            parts.append(self.label)
        return ", ".join(parts)


def may_join(peer_uid: int, hub_uid: int) -> bool:
    """May a process of ``peer_uid`` be a client of a hub of ``hub_uid``?

    A hub of root serves everybody, each in a domain of their own; any other only its own user.
    """
    return hub_uid in (0, peer_uid)
