"""pagemerge: find identical memory pages, keep one copy of each, share it copy-on-write."""

from __future__ import annotations

from pagemerge._core import VERSION, Memory
from pagemerge.arrays import buffer, copy, empty, intern, mergeable_arrays, stats, unmerge
from pagemerge.data import dump, load, share
from pagemerge.errors import (
    AccessDenied,
    HubError,
    NoSuchProcess,
    OutOfMemory,
    PagemergeError,
    ProtocolError,
    ServiceError,
    Unsupported,
    UsageError,
)

__version__ = VERSION

__all__ = [
    "AccessDenied",
    "HubError",
    "Memory",
    "NoSuchProcess",
    "OutOfMemory",
    "PagemergeError",
    "ProtocolError",
    "ServiceError",
    "Unsupported",
    "UsageError",
    "buffer",
    "copy",
    "dump",
    "empty",
    "intern",
    "load",
    "mergeable_arrays",
    "share",
    "stats",
    "unmerge",
]
