"""Descriptors that somebody might hand to a hub as slabs: as they should be, and all but."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket

from pagemerge.model import PAGE_SIZE
from tests.support.stranger import F_ADD_SEALS, SEALED

_FUTURE_WRITE = 0x10
_TERABYTES = 60 << 40


def memory_file(pages: int, seals: int, flags: int = 0) -> int:
    """A memory file with those seals, full of holes."""
    wanted = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags
    descriptor = os.memfd_create("pagemerge-slab", wanted)
    os.ftruncate(descriptor, pages * PAGE_SIZE)
    fcntl.fcntl(descriptor, F_ADD_SEALS, seals)
    return descriptor


def forged() -> list[int]:
    """The first three are slabs: a small one, another, and the largest, 16 MiB of holes. All of
    them are the caller's to close."""
    found = [memory_file(pages, SEALED) for pages in (1, 3, 4096)]
    found += [
        memory_file(1, seals) for seals in (0, SEALED & ~0x8 | _FUTURE_WRITE, 0x6, SEALED & ~0x1)
    ]
    found += [memory_file(pages, SEALED) for pages in (0, 4097, 1 << 28)]
    with contextlib.suppress(OSError):  # what a file of memory may be is for the kernel to say
        found.append(memory_file(_TERABYTES // PAGE_SIZE, SEALED))
    with contextlib.suppress(OSError):  # there may be no huge pages
        found.append(memory_file(512, SEALED, os.MFD_HUGETLB))
    odd = os.memfd_create("pagemerge-slab", os.MFD_ALLOW_SEALING)
    os.ftruncate(odd, 5000)
    fcntl.fcntl(odd, F_ADD_SEALS, SEALED)
    found += [odd, os.open("/proc/self/exe", os.O_RDONLY), os.open("/", os.O_PATH)]
    found += [os.open("/proc/self/exe", os.O_PATH), os.open("/", os.O_RDONLY)]
    found += [os.open("/dev/zero", os.O_RDONLY), os.open("/dev/null", os.O_RDWR)]
    found += [*os.pipe(), os.eventfd(0), os.pidfd_open(os.getpid())]
    with select.epoll() as waiter:
        found.append(os.dup(waiter.fileno()))
    found.append(os.open("/proc/self/mem", os.O_RDONLY))
    one, other = socket.socketpair()
    return [*found, one.detach(), other.detach(), socket.socket(socket.AF_UNIX).detach()]
