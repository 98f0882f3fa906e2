"""A process with memory that does not merge, for a reason that it is asked for (``demo.dialog``).

Handlers: ``fill`` maps private memory, ``prctl`` and ``pin`` do these calls, ``confine`` puts this
thread, the only one, under a seccomp filter. Source: io_uring_register(2) for ``pin``; x86_64.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import random
import struct
import sys

from pagemerge.demo.dialog import Answer, serve

PAGE, HUGE = 4096, 2 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
IO_URING_SETUP, IO_URING_REGISTER = 425, 427
PR_SET_DUMPABLE, MADV_COLLAPSE = 4, 25


def checked(result: int) -> int:
    """A system call's result."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Reluctant:
    """Its memory: ranges that stay mapped."""

    def __init__(self) -> None:
        self.kept: list[mmap.mmap] = []
        self.last = (0, 0)

    def fill(
        self,
        pages: int,
        kinds: int = 0,
        seed: int = 0,
        *,
        mark: bool = False,
        lock: bool = False,
        huge: bool = False,
    ) -> Answer:
        """Map ``pages`` pages of ``kinds`` contents, or each of its own where that is 0."""
        size = pages * PAGE
        memory = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        skipped = -start % HUGE
        if not huge:
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        if mark:
            memory.madvise(mmap.MADV_MERGEABLE)
        memory.seek(skipped)
        source = random.Random(seed)
        for page in range(pages):
            content = bytes([1 + page % kinds]) * PAGE if kinds else source.randbytes(PAGE)
            memory.write(content)
        self.last = start + skipped, size
        where = ctypes.c_void_p(self.last[0]), ctypes.c_size_t(size)
        if lock:
            checked(LIBC.mlock(*where))
        if huge:  # at once, whatever the host says about huge pages
            checked(LIBC.madvise(*where, MADV_COLLAPSE))
        self.kept.append(memory)
        return {}

    def prctl(self, option: int, value: int) -> Answer:
        """prctl(2)."""
        checked(LIBC.prctl(option, value, 0, 0, 0))
        return {}

    def confine(self) -> Answer:
        """A filter that allows all calls but PR_SET_MEMORY_MERGE."""
        importlib.import_module("confined").confine(1)
        return {}

    def pin(self) -> Answer:
        """Register the last range as fixed buffers of an io_uring, at most 1 GiB."""
        parameters = ctypes.create_string_buffer(120)
        ring = checked(LIBC.syscall(IO_URING_SETUP, 4, parameters))
        vector = ctypes.create_string_buffer(struct.pack("QQ", *self.last))
        checked(LIBC.syscall(IO_URING_REGISTER, ring, 0, vector, 1))
        return {}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        user = int(sys.argv[1])
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    one = Reluctant()
    serve({verb: getattr(one, verb) for verb in ("fill", "prctl", "confine", "pin")})
