"""A process with pages of known kinds; its words are a kind and a number of pages each.

    seed N        for all that follows: victims with equal words have equal pages
    random        pages that no compressor makes smaller
    text          pages of 300 words in any order
    numbers       pages of floating-point numbers of few digits
    near          pages that equal one page in all but three of its 16 blocks of 256 bytes
    filled        pages of one repeated word of 8 bytes, none of them zeros

Prints a line of JSON when ready: its pid. Ends with its standard input.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import sys
from collections.abc import Callable

PAGE = 4096
FIXED = random.Random(7)
WORDS = [bytes(FIXED.choices(b"etaoinshrdlu", k=count % 9 + 2)) for count in range(300)]
BASE = FIXED.randbytes(PAGE)


def near(source: random.Random) -> bytes:
    """The page that all of these are like, with three blocks of its own."""
    page = bytearray(BASE)
    for block in source.sample(range(16), 3):
        page[block * 256 : block * 256 + 256] = source.randbytes(256)
    return bytes(page)


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "random": lambda source: source.randbytes(PAGE),
    "text": lambda source: b" ".join(source.choices(WORDS, k=2000))[:PAGE],
    "numbers": lambda source: struct.pack("512d", *(source.randint(0, 999) for _ in range(512))),
    "near": near,
    "filled": lambda source: source.randbytes(7).ljust(8, b"x") * (PAGE // 8),
}


def main() -> None:
    """Do what the words say, in their order."""
    source, keep = random.Random(0), []
    words = iter(sys.argv[1:])
    for word, count in zip(words, map(int, words), strict=True):
        if word == "seed":
            source = random.Random(count)
            continue
        memory = mmap.mmap(-1, count * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for _ in range(count):
            memory.write(KINDS[word](source))
        keep.append(memory)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
