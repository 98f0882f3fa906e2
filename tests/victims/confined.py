"""Run a command under a seccomp filter that answers prctl(PR_SET_MEMORY_MERGE) with an error.

    confined.py ERRNO CMD ...   EINVAL as a kernel without CONFIG_KSM, EPERM as a container's filter

Source: seccomp(2), Documentation/userspace-api/seccomp_filter.rst of Linux; x86_64.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERROR = 0x7FFF0000, 0x00050000
NR_PRCTL, PR_SET_MEMORY_MERGE = 157, 67
NUMBER_AT, FIRST_ARGUMENT_AT = 0, 16


def confine(errno: int) -> None:
    """Install the filter; it holds over exec."""
    rows = [
        (LOAD, 0, 0, NUMBER_AT),
        (EQUAL, 0, 3, NR_PRCTL),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        (EQUAL, 0, 1, PR_SET_MEMORY_MERGE),
        (RETURN, 0, 0, ERROR | errno),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
    program = struct.pack("HxxxxxxQ", len(rows), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(program), 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


if __name__ == "__main__":
    confine(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
