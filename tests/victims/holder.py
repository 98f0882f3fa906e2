"""Holds pages of known kinds: ``holder.py [user UID] [seed N] KIND BYTES...``, or ``file PATH``.

Kinds: zero, word (one word repeated), text, heap (addresses), unique (random, of the seed), file
(the bytes of a file), rewritten (as unique; a tenth of the pages is written every 0.1 s).
Says ``ready``, and ends with its standard input.
"""

from __future__ import annotations

import mmap
import os
import random
import select
import struct
import sys
from pathlib import Path

PAGE = 4096


def content(kind: str, value: str, seed: int) -> bytes:
    """The bytes of one region."""
    if kind == "file":
        return Path(value).read_bytes()
    size = int(value)
    rows = range(size // 32)
    if kind == "zero":
        return bytes(size)
    if kind == "word":
        return b"pagesize" * (size // 8)
    if kind == "text":
        return "".join(f"line {at:08} of a file of text, which is long\n" for at in rows).encode()[
            :size
        ]
    if kind == "heap":
        base = 0x7F12_3456_7000
        return b"".join(struct.pack("4Q", 1, base + 64 * at, base + 8 * at, at) for at in rows)
    return random.Random(seed).randbytes(size)


def main() -> None:
    """Fill the memory, say so, and hold it."""
    words, seed, held, rewritten = sys.argv[1:], 0, [], []
    files = []
    for kind, value in zip(words[::2], words[1::2], strict=True):
        if kind == "user":
            os.setgroups([])
            os.setresgid(int(value), int(value), int(value))
            os.setresuid(int(value), int(value), int(value))
        elif kind == "seed":
            seed = int(value)
        else:
            data = content(kind, value, seed)
            memory = mmap.mmap(-1, len(data), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.madvise(mmap.MADV_NOHUGEPAGE)
            memory.write(data)
            del data
            held.append(memory)
            if kind == "rewritten":
                rewritten.append(memory)
            if kind == "file":
                files.append(os.open(value, os.O_RDONLY))  # as a program that has loaded a model
    print("ready", flush=True)
    turn = 0
    while not select.select([sys.stdin], [], [], 0.1 if rewritten else None)[0]:
        turn += 1
        for memory in rewritten:
            for at in range(turn % 10 * PAGE, len(memory), 10 * PAGE):
                memory[at : at + 8] = struct.pack("Q", turn)


if __name__ == "__main__":
    main()
