"""A process whose memory kernel KSM may merge: it is filled, rewritten and checked on demand.

The first word: ``merge`` (all its memory is mergeable, prctl(2)) or ``plain``; more are for rules.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import random
import sys

from pagemerge.demo.dialog import Answer, serve

PAGE = 4096
PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE = 67, 68

memory = mmap.mmap(-1, PAGE)
digest = b""


def fill(seed: int, shared: int, own: int) -> Answer:
    """So many pages that everybody with this seed has, and so many of its own."""
    global memory
    memory = mmap.mmap(-1, (shared + own) * PAGE, flags=mmap.MAP_PRIVATE)
    return rewrite(seed, 0, shared) | rewrite(-1, shared, own)


def rewrite(seed: int, first: int, pages: int) -> Answer:
    """Fill pages anew, by the seed; with a seed of -1 by chance."""
    global digest
    memory.seek(first * PAGE)
    source = random.Random(seed)
    for _ in range(pages):
        memory.write(source.randbytes(PAGE) if seed >= 0 else os.urandom(PAGE))
    digest = _digest()
    return {}


def check() -> Answer:
    """Does the memory hold what was written to it?"""
    return {"right": _digest() == digest}


def where() -> Answer:
    """Address of its memory."""
    return {"address": ctypes.addressof(ctypes.c_char.from_buffer(memory))}


def mergeable() -> Answer:
    """What prctl(2) says of this process."""
    return {"on": ctypes.CDLL(None).prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0)}


def _digest() -> bytes:
    return hashlib.blake2b(memory).digest()


if __name__ == "__main__":
    if sys.argv[1] == "merge":
        ctypes.CDLL(None).prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)
    serve(
        {"fill": fill, "rewrite": rewrite, "check": check, "where": where, "mergeable": mergeable}
    )
