"""A program with private memory of known contents, which kernel KSM may merge.

It knows nothing of us but how to talk: what it does with its memory, it does by system calls.

Page ``n`` holds the byte ``1 + n % kinds``, or zero where ``kinds`` is 0.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import struct

import numpy as np

from pagemerge.demo.dialog import Answer, die_with_parent, serve

PAGE = 4096
LIBC = ctypes.CDLL(None, use_errno=True)
USERFAULTFD, MBIND = 323, 237  # x86_64
UFFD_API, UFFD_REGISTER, UFFD_WRITE_PROTECT = 0xC018AA3F, 0xC020AA00, 0xC018AA06


def checked(result: int) -> int:
    """A system call's result."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Mergeable:
    """One range, and what its pages must hold."""

    def __init__(self) -> None:
        self.base = 0
        self.memory = np.zeros((0, PAGE), np.uint8)
        self.wanted = np.zeros(0, np.uint8)
        self.watcher = -1

    def fill(self, pages: int, kinds: int, node: int = -1) -> Answer:
        """Map ``pages`` pages, of the host's memory node ``node``, and fill them."""
        # Its neighbours keep it from being joined to other memory.
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        room = mmap.mmap(-1, (pages + 2) * PAGE, flags=anonymous)
        room.madvise(mmap.MADV_NOHUGEPAGE)
        self.memory = np.frombuffer(room, np.uint8).reshape(-1, PAGE)[1:-1]
        self.base = self.memory.ctypes.data
        if node >= 0:
            bind, mask = 2, ctypes.c_ulong(1 << node)
            size = ctypes.c_ulong(pages * PAGE)
            address = ctypes.c_void_p(self.base)
            checked(LIBC.syscall(MBIND, address, size, bind, ctypes.byref(mask), 64, 0))
        self.wanted = (1 + np.arange(pages) % kinds if kinds else np.zeros(pages)).astype(np.uint8)
        self.memory[:] = self.wanted[:, None]
        return {"base": self.base}

    def write(self, first: int, pages: int) -> Answer:
        """Give some pages contents that no other page has."""
        for page in range(first, first + pages):
            self.wanted[page] = 200
            self.memory[page] = 200
            self.memory[page, :4] = np.frombuffer(struct.pack("I", page), np.uint8)
        return {}

    def check(self) -> Answer:
        """How many pages are not what they must be; marks of ``write`` apart."""
        return {"wrong": int((self.memory[:, 4:] != self.wanted[:, None]).any(axis=1).sum())}

    def advise(self, first: int, pages: int, advice: int) -> Answer:
        """madvise(2); what is discarded reads as zero."""
        checked(LIBC.madvise(*self._range(first, pages), advice))
        if advice == mmap.MADV_DONTNEED:
            self.wanted[first : first + pages] = 0
        return {}

    def protect(self, access: int) -> Answer:
        """mprotect(2) of all of it."""
        checked(LIBC.mprotect(*self._range(0, len(self.memory)), access))
        return {}

    def watch(self) -> Answer:
        """Have all of it write-protected by a userfaultfd that nobody answers for."""
        self.watcher = checked(LIBC.syscall(USERFAULTFD, os.O_CLOEXEC))
        protection, size = 1, len(self.memory) * PAGE
        fcntl.ioctl(self.watcher, UFFD_API, struct.pack("QQQ", 0xAA, protection, 0))
        register = bytearray(struct.pack("QQQQ", self.base, size, 2, 0))
        fcntl.ioctl(self.watcher, UFFD_REGISTER, register)
        fcntl.ioctl(self.watcher, UFFD_WRITE_PROTECT, struct.pack("QQQ", self.base, size, 1))
        return {}

    def unwatch(self) -> Answer:
        """Writes are free again."""
        os.close(self.watcher)
        return {}

    def prctl(self, option: int, value: int) -> Answer:
        """prctl(2)."""
        return {"result": checked(LIBC.prctl(option, value, 0, 0, 0))}

    def fork(self, pages: int, kinds: int) -> Answer:
        """A child with memory of its own besides; it waits, and ends with us."""
        parent, (down, up) = os.getpid(), os.pipe()
        if (child := os.fork()) == 0:
            die_with_parent(parent)
            os.write(up, struct.pack("Q", self.fill(pages, kinds)["base"]))
            while True:
                signal.pause()
        (base,) = struct.unpack("Q", os.read(down, 8))
        return {"child": child, "base": base}

    def _range(self, first: int, pages: int) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
        return ctypes.c_void_p(self.base + first * PAGE), ctypes.c_size_t(pages * PAGE)


if __name__ == "__main__":
    one = Mergeable()
    verbs = [name for name in dir(one) if not name.startswith("_")]
    serve({verb: getattr(one, verb) for verb in verbs if callable(getattr(one, verb))})
