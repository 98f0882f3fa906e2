"""Moments made by hand."""

from __future__ import annotations

from typing import Any

from pagemerge.watch.model import Host, KernelEngine, Moment, Row, UserEngine

GIB = 1 << 30


def row(pid: int, **given: Any) -> Row:
    """A row of the user engine, of a process that merges well; ``given`` replaces fields."""
    fields: dict[str, Any] = {
        "pid": pid,
        "name": f"worker{pid}",
        "uid": 1000,
        "user": "mira",
        "engine": "user",
        "domain": "uid 1000",
        "guest": "",
        "unit": "",
        "cgroup": "/",
        "memory_bytes": 1000 * 4096,
        "merged_bytes": 500 * 4096,
        "saved_bytes": 400 * 4096,
        "merges": 600,
        "separations": 100,
        "mappings": 70,
        "mappings_limit": 65_530,
        "why": "",
    }
    return Row(**{**fields, **given})


def user(**given: Any) -> UserEngine:
    """A hub at work."""
    fields = dict.fromkeys(UserEngine.__struct_fields__, 0)
    return UserEngine(**{**fields, "hub_pid": 7, "seconds": 100.0, "cpu_seconds": 2.0, **given})


def kernel(**given: Any) -> KernelEngine:
    """ksmd at work."""
    fields: dict[str, Any] = dict.fromkeys(KernelEngine.__struct_fields__, 0)
    return KernelEngine(**{**fields, "run": 1, "governor_pid": None, "cpu_seconds": 5.0, **given})


def moment(time: float = 1000.0, **given: Any) -> Moment:
    """A moment of a host with 16 GiB."""
    return Moment(**{"time": time, "host": Host(16 * GIB, 8 * GIB, 0.0), **given})
