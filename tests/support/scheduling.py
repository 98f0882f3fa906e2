"""What the kernel says of a thread's scheduling that Python has no function for."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr, as long as its first version (sched_setattr(2))."""


def slice_of(thread: int) -> int:
    """Nanoseconds of the slice of a thread; 0 before Linux 6.12."""
    found = ctypes.create_string_buffer(ATTRIBUTES.size)
    libc = ctypes.CDLL(None, use_errno=True)
    number = SCHED_GETATTR[platform.machine()]
    if libc.syscall(number, thread, found, len(found), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(ATTRIBUTES.unpack(found.raw)[5])
