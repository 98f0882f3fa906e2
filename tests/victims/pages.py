"""A process with pages of known content; what it does is told by its words.

    pages ZERO DUPLICATE UNIQUE   private pages: so many of zeros, of one content, of one's own
    user UID                      become that user, and let its other processes look at us
    seed N                        for the unique ones: two victims with one seed have equal pages
    hole BYTES                    reserve memory and touch its last page only
    shared BYTES                  fill a shared memfd
    hugetlb BYTES                 fill private huge pages
    merge                         let ksmd merge all that follows
    fork                          start a child that shares everything and waits

Prints a line of JSON when ready: pid, child, addresses. Ends with its standard input.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import signal
import sys

PAGE = 4096
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_MEMORY_MERGE = 1, 4, 67
MAP_NORESERVE, MAP_HUGETLB = 0x4000, 0x40000


def private(size: int, flags: int = 0) -> mmap.mmap:
    """Anonymous private memory without transparent huge pages."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags)
    if not flags & MAP_HUGETLB:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def address(memory: mmap.mmap) -> int:
    """Where ``memory`` is."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def main() -> None:
    """Do what the words say, in their order."""
    words = iter(sys.argv[1:])
    seed, report, keep = 0, {"pid": os.getpid()}, []
    for word in words:
        if word == "seed":
            seed = int(next(words))
        elif word == "user":
            user = int(next(words))
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        elif word == "merge":
            ctypes.CDLL(None).prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)
        elif word == "pages":
            zero, duplicate, unique = (int(next(words)) for _ in range(3))
            memory = private((zero + duplicate + unique) * PAGE)
            source = random.Random(seed)
            for page in range(zero):
                memory[page * PAGE] = 0
            memory.seek(zero * PAGE)
            memory.write((b"duplicate" * PAGE)[:PAGE] * duplicate)
            for _ in range(unique):
                memory.write(source.randbytes(PAGE))
            keep.append(memory)
            report["pages"] = address(memory)
        elif word == "hole":
            size = int(next(words))
            memory = private(size, MAP_NORESERVE)
            memory[size - PAGE] = 1
            keep.append(memory)
            report["hole"] = address(memory)
        elif word == "shared":
            size = int(next(words))
            file = os.memfd_create("victim")
            os.truncate(file, size)
            memory = mmap.mmap(file, size)
            memory.write(b"s" * size)
            keep.append(memory)
        elif word == "hugetlb":
            size = int(next(words))
            memory = private(size, MAP_HUGETLB)
            memory.write(b"h" * size)
            keep.append(memory)
        elif word == "fork":
            parent = os.getpid()
            report["child"] = os.fork() or 0
            if not report["child"]:
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != parent:
                    return
                break
    if report.get("child", 1):
        print(json.dumps(report), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
