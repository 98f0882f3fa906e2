"""What a victim counts, in a file shared with the soak: it outlives the victim, however that ends.

The layout is ``struct tally`` of ``tests/victims/soaker.c``.
"""

from __future__ import annotations

import ctypes

PARTS = 8
"""Pieces of memory that a victim has."""

FIRST = 8
"""Wrong pages that are kept with all details."""

COUNTS = (
    "turns",  # of its threads: a sign of life
    "writes",  # pages changed
    "checked",  # pages verified, byte by byte
    "forks",  # children that verified, and changed what they had
    "spawns",  # vfork, posix_spawn, subprocess
    "discards",  # MADV_DONTNEED, MADV_FREE, arrays freed
    "remaps",  # mprotect, mremap, mmap(MAP_FIXED)
    "unmerges",  # MADV_UNMERGEABLE and MERGEABLE, unmerge
    "births",  # new memory in the place of old
    "refused",  # a call that ended with HubError: the hub was dead or stopped
    "wrong",  # pages with a wrong byte
    "failed",  # calls that must not fail and did
)


class Wrong(ctypes.Structure):
    """One wrong page: ``struct wrong``."""

    _fields_ = (
        ("pid", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("wanted_key", ctypes.c_uint64),
        ("found_key", ctypes.c_uint64),
        ("wanted", ctypes.c_uint64),
        ("found", ctypes.c_uint64),
        ("during", ctypes.c_char * 40),
    )

    def __str__(self) -> str:
        return (
            f"process {self.pid}, address {self.address:#x}, during {self.during.decode()}: "
            f"expected {self.wanted:#018x} of page {self.wanted_key:#018x}, "
            f"found {self.found:#018x} in a page that calls itself {self.found_key:#018x}"
        )


class Tally(ctypes.Structure):
    """``struct tally``: the counts of ``COUNTS``, the first failure, the first wrong pages."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in COUNTS),
        ("failure", ctypes.c_char * 112),
        ("first", Wrong * FIRST),
    )

    def counts(self) -> dict[str, int]:
        """Name -> count, as it is now."""
        return {name: int(getattr(self, name)) for name in COUNTS}

    def faults(self) -> list[str]:
        """What went wrong in this victim, in words."""
        wrong = int(self.wrong)
        said = [f"wrong byte: {self.first[number]}" for number in range(min(wrong, FIRST))]
        if wrong > FIRST:
            said.append(f"wrong bytes in {wrong - FIRST} more pages of the same process")
        if self.failed:
            said.append(f"{self.failed} calls failed, the first: {self.failure.decode()}")
        return said
